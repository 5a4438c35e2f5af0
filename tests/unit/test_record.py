"""tools/record without what it runs: which files it accepts, what it compares and how, what it writes."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dit_eval.diagnostics.recorded import features, inception_weights
from dit_eval.errors import AssetError, UsageError
from tools.record import exact, stored
from tools.record.__main__ import PARTS, expected_from, main
from tools.record.compare import all_rules, compare, table, tolerances
from tools.record.environments import Environment, RunFailedError, environments
from tools.record.quantities import Quantities
from tools.record.sources import PROGRAMS, Program, collect


@pytest.fixture(scope="module")
def recorded() -> Quantities:
    return stored.read()


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """A program of one file, with a checkout in `checkouts`."""
    file = tmp_path / "checkouts" / "original" / "package" / "models.py"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"depth = 28\n")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Program(
        runner="run_it", environment="torch", folder="package", files={"package/models.py": digest}
    )


def test_verified_files_of_a_checkout_are_collected(program: Program, tmp_path: Path) -> None:
    folder = collect(program, "owner/original", "abc", tmp_path / "checkouts", tmp_path / "sources")
    assert folder == tmp_path / "sources" / "original" / "package"
    assert (folder / "models.py").read_bytes() == b"depth = 28\n"


def test_a_changed_file_is_refused_and_not_collected(program: Program, tmp_path: Path) -> None:
    changed = tmp_path / "checkouts" / "original" / "package" / "models.py"
    changed.write_bytes(b"depth = 29\n")
    with pytest.raises(AssetError, match=r"models\.py is not the file of owner/original at abc: its SHA-256"):
        collect(program, "owner/original", "abc", tmp_path / "checkouts", tmp_path / "sources")
    assert not list(tmp_path.glob("sources/**/*.py"))


def test_a_changed_download_is_refused(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = tmp_path / "served.py"
    served.write_bytes(b"<html>not found</html>")
    monkeypatch.setattr("tools.record.sources.ADDRESS", served.as_uri())
    with pytest.raises(AssetError, match="not the file of owner/original"):
        collect(program, "owner/original", "abc", None, tmp_path / "sources")
    served.write_bytes(b"depth = 28\n")
    assert (collect(program, "owner/original", "abc", None, tmp_path / "sources") / "models.py").is_file()


def test_a_missing_checkout_is_named(program: Program, tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="in the subfolder other"):
        collect(program, "owner/other", "abc", tmp_path / "checkouts", tmp_path / "sources")


def test_every_program_of_the_recorded_numbers_can_be_run() -> None:
    programs = stored.read_numbers()["programs"]
    assert PROGRAMS.keys() == programs.keys() == {part.program for part in PARTS.values()}
    for name, facts in programs.items():
        assert facts.get("file", "models.py") in PROGRAMS[name].files


def test_every_recorded_quantity_is_made_by_one_part_and_has_a_tolerance(recorded: Quantities) -> None:
    rules = all_rules(recorded)
    metadata = r"expected/(cpu|programs/.*|noise/.*)"  # noise: of our own generator
    for name, value in recorded.items():
        makers = [part for part, facts in PARTS.items() if re.fullmatch(facts.makes, name)]
        assert len(makers) == (0 if re.fullmatch(metadata, name) else 1), (name, makers)
        assert tolerances(name, value, rules), name


def test_every_rule_and_every_part_is_about_something_recorded(recorded: Quantities) -> None:
    for pattern in [rule for rule, _ in all_rules(recorded)] + [part.makes for part in PARTS.values()]:
        assert any(re.fullmatch(pattern, name) for name in recorded), pattern


def test_what_is_recorded_agrees_with_itself(recorded: Quantities) -> None:
    comparisons = list(compare(recorded, recorded))
    assert {row.name for row in comparisons} == recorded.keys()
    assert all(row.agrees and row.deviation == 0 for row in comparisons)


FID = "expected/evaluator_on_images/300/adm_evaluator/fid"


@pytest.mark.parametrize(
    ("name", "factor", "agrees"),
    [
        (FID, 1 + 4e-6, True),
        (FID, 1 + 6e-6, False),
        ("expected/evaluator_on_images/2560/adm_evaluator/fid", 1 + 2e-6, False),
        ("expected/evaluator_on_features/full_rank/exact_float64/fid", 1 + 2e-10, False),
        ("expected/evaluator_on_images/300/precision_recall/f32/recall", 1 + 1 / 300, True),  # less than one
        ("expected/evaluator_on_images/300/precision_recall/f32/recall", 1 + 2 / 300, False),
        ("expected/evaluator_on_images/300/adm_evaluator/recall", 1.02, True),  # for information
        ("tensorflow_features/pool_64", 1 + 3e-5, False),
        ("knn_radii/full_rank_ref_f64", 1 + 3e-5, False),
        ("knn_radii/full_rank_ref_adm", 1.06, True),
        ("dit/table_250_betas", 1 + 2e-12, False),
        ("dit/small_forward", 1 + 1e-6, True),
        ("dit/small_forward", 1 + 3e-6, False),
        ("dit/chain_p250_sample", 1 + 2e-5, False),
        ("dit/p_mean_variance_clip1_pred_xstart", 1 + 6.05e-5, True),
        ("dit/p_mean_variance_clip1_pred_xstart", 1 + 6.2e-5, False),
        ("dit/noise_p10", 1 + 1e-6, False),
        ("sit/ode_VP_euler_10_last", 1 + 2e-5, False),
        ("sit/ode_VP_dopri5_10_last", 1 + 2e-4, True),
        ("center_crop/cropped_64", 2, False),
        ("repa_jit_samplers/repa_sde_10", 1 + 5e-7, True),
        ("repa_jit_samplers/repa_sde_10", 1 + 2e-6, False),
        ("repa_jit_samplers/jit_heun_50_interval", 1 + 2e-5, False),
    ],
)
def test_a_deviation_beyond_the_tolerance_is_noticed(
    recorded: Quantities, name: str, factor: float, agrees: bool
) -> None:
    now = recorded | {name: (recorded[name] * factor).astype(recorded[name].dtype)}
    wrong = [row for row in compare(now, recorded) if not row.agrees]
    assert {row.name for row in wrong} == (set() if agrees else {name})
    if wrong:
        assert re.search(rf"^ *! +{name} ", table(wrong), re.MULTILINE)


def test_texts_shapes_and_missing_quantities_are_noticed(recorded: Quantities) -> None:
    score = "expected/evaluator_on_features/fp16_overflow/adm_evaluator/inception_score"
    assert recorded[score] == "nan"
    now = recorded | {score: np.asarray(93.06), "dit/small_x": recorded["dit/small_x"][:2]}
    now["expected/sha256/inception_weights"] = np.asarray("03e1")
    del now["sit/forward"]
    now["sit/backward"] = np.zeros(3)
    wrong = {row.name for row in compare(now, recorded) if not row.agrees}
    assert wrong == {
        *(score, "dit/small_x", "expected/sha256/inception_weights", "sit/forward", "sit/backward")
    }


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_number_that_is_not_finite_never_agrees(recorded: Quantities, broken: float) -> None:
    for name, value in recorded.items():
        if value.dtype.kind == "f" and name.startswith(("expected/evaluator_on_images/300/exact", "sit/")):
            spoilt = value.copy()
            spoilt.flat[0] = broken
            assert not all(row.agrees for row in compare({name: spoilt}, {name: value} | counts(recorded)))


def counts(recorded: Quantities) -> Quantities:
    return {name: value for name, value in recorded.items() if name.endswith(("/n_ref", "/n_samples"))}


def test_only_what_the_chosen_parts_make_is_expected_of_them(recorded: Quantities) -> None:
    chosen = expected_from(["sit"], recorded)
    assert {name.split("/")[0] for name in chosen} == {"sit", "expected"}
    assert "expected/programs/SiT/versions/torch" in chosen
    assert not any("evaluator" in name or "DiT" in name for name in chosen)


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch, recorded: Quantities) -> Quantities:
    """The runners find what this mapping holds, at first what is stored; the part "dit" fails."""
    now = dict(recorded)
    programs = stored.read_numbers()["programs"]

    def run(self: Environment, runner: str, programs: list[Path], *arguments: str) -> Quantities:
        if runner == "run_dit":
            raise RunFailedError("ended with exit code -15.")
        return {name: value for name, value in now.items() if re.fullmatch(PARTS["sit"].makes, name)}

    monkeypatch.setattr("tools.record.__main__.collect", lambda *_: Path())
    monkeypatch.setattr(Environment, "create", lambda self: None)
    monkeypatch.setattr(Environment, "versions", lambda self, names: programs["SiT"]["versions"])
    monkeypatch.setattr(Environment, "run", run)
    return now


def test_agreement_exits_with_0_and_disagreement_with_1(replayed: Quantities) -> None:
    agreed = CliRunner().invoke(main, ["sit"])
    assert agreed.exit_code == 0, agreed.output
    assert re.search(r"^(\d+) of \1 comparisons agree; parts: sit\.$", agreed.output, re.MULTILINE)
    replayed["sit/forward"] = replayed["sit/forward"] * np.float32(1.001)
    differed = CliRunner().invoke(main, ["sit"])
    assert differed.exit_code == 1
    assert re.search("^ *! +sit/forward ", differed.output, re.MULTILINE)


def test_a_part_that_fails_costs_none_of_the_others(replayed: Quantities) -> None:
    result = CliRunner().invoke(main, ["dit", "sit"])
    assert isinstance(result.exception, RunFailedError)
    assert "dit failed" in str(result.exception)
    assert "parts: sit." in result.output
    assert "missing" not in result.output


def test_files_are_written_as_they_were_but_for_what_was_found(recorded: Quantities, tmp_path: Path) -> None:
    files = ("expected.json", *(f"{name}.npz" for name in stored.ARRAYS))
    folders = [tmp_path / str(number) for number in range(len(stored.FOLDERS))]
    for folder, original in zip(folders, stored.FOLDERS, strict=True):
        folder.mkdir()
        for file in files:
            if (original / file).is_file():
                shutil.copy(original / file, folder)
    stored.write({}, folders)
    numbers = [folder / "expected.json" for folder in (folders[0], stored.FOLDERS[0])]
    assert numbers[0].read_bytes() == numbers[1].read_bytes()
    for name, value in stored.read(folders).items():
        np.testing.assert_array_equal(value, recorded[name])
    stored.write({FID: np.asarray(33.5), "sit/forward": np.zeros((4, 4, 8, 8), np.float32)}, folders)
    again = stored.read(folders)
    assert list(again) == list(recorded)
    changed = {name for name, value in again.items() if not np.array_equal(value, recorded[name])}
    assert changed == {FID, "sit/forward"}


def test_environments_have_the_recorded_versions_and_torch_may_be_another(tmp_path: Path) -> None:
    programs = stored.read_numbers()["programs"]
    found = environments(tmp_path, programs, None)
    assert found["tensorflow"].interpreter == found["torch"].interpreter == "python3.11"
    for name, program in PROGRAMS.items():
        for package, version in programs[name]["versions"].items():
            pinned = f"{package}=={version}" in found[program.environment].requirements
            assert pinned == (package != "python")
    other = environments(tmp_path, programs, "2.14.1")["torch"].requirements
    assert set(found["torch"].requirements) ^ set(other) == {"torch==2.15.0", "torch==2.14.1"}


def test_a_missing_interpreter_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    environment = environments(tmp_path, stored.read_numbers()["programs"], None)["torch"]
    with pytest.raises(UsageError, match=r"python3\.11 is not on the PATH"):
        environment.create()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["dit", "--write"], "add --full"), (["dit", "--full"], "name none"), (["dat"], "'dat' is not one of")],
)
def test_wrong_use_is_one_sentence(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code != 0
    assert message in f"{result.output}{result.exception}"


@pytest.mark.slow
def test_exact_arithmetic_gives_the_recorded_numbers_of_a_case_with_both_precisions(
    recorded: Quantities,
) -> None:
    name = "fp16_outlier"
    numbers, radii = exact.numbers(features.case(name), inception_weights.build()["fc.weight"])
    case = stored.read_numbers()["evaluator_on_features"][name]
    assert numbers["exact_float64"] == pytest.approx(case["exact_float64"], rel=1e-10)
    assert numbers["precision_recall"] == case["precision_recall"]
    for key, values in radii.items():
        np.testing.assert_allclose(values, recorded[f"knn_radii/{name}_{key}"], rtol=2e-5)
