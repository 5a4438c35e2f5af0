"""Table 2: the paper's rows as printed, comparable results with them, and the others with the reason."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from dit_eval.cli import main
from dit_eval.errors import ResultError
from dit_eval.results.published import architecture, published_results
from dit_eval.results.table2 import paper_row, table2
from tests.handmade import handmade


def line(text: str, start: str) -> list[str]:
    (row,) = (row for row in text.splitlines() if row.strip().startswith(start))
    return row.split()


def test_the_papers_fifteen_rows_stand_as_printed() -> None:
    rows = table2([]).paper
    assert len(rows) == 15
    assert [rows[-1].cells()[name] for name in ("fid", "sfid", "inception_score", "precision", "recall")] == [
        "2.27",
        "4.60",
        "278.24",
        "0.83",
        "0.57",
    ]
    assert line(table2([]).text(), "CDM") == ["CDM", "50K", "4.88", "–", "158.71", "–", "–"]


def test_a_comparable_result_is_listed_with_the_difference_from_the_paper() -> None:
    table = table2([handmade(cfg=1.5, fid=2.21, recall=0.58)])
    assert not table.others
    text = table.text(width=80)
    assert line(text, "dit-xl-2-256 (cfg=1.50)")[2:4] == ["50K", "2.21"]
    difference = line(text, "minus the paper's")
    assert difference[3] == "-0.06"
    assert difference[-1] == "+0.01"
    assert "adm adm-fingerprint" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"n": 10_000}, "10,000 images, not 50,000"),
        ({"protocol": "clean"}, "protocol clean, not adm"),
        ({"official": False}, "custom weights of the feature network"),
        ({"reference": "refs/mine.npz"}, "measured against mine.npz, not imagenet-256"),
        ({"size": 512}, "images of 512×512, not 256×256"),
    ],
)
def test_any_other_result_is_listed_separately_with_the_reason(facts: dict, reason: str) -> None:
    table = table2([handmade(**facts)])
    assert not table.comparable
    (row,) = table.others
    assert row.reasons == (reason,)
    assert row.paper is None
    assert reason in " ".join(table.text().split())


def test_the_reference_counts_by_its_name_or_by_the_name_of_its_file() -> None:
    assert table2([handmade(reference="refs/VIRTUAL_imagenet256_labeled.npz")]).comparable


def test_a_batch_of_unknown_origin_has_no_row_of_the_paper() -> None:
    (row,) = table2([handmade(model=None, samples="runs/other.npz")]).comparable
    assert (row.name, row.paper) == ("other.npz", None)


def test_results_of_two_protocols_are_refused() -> None:
    with pytest.raises(ResultError, match=r"with protocol adm .* with protocol clean"):
        table2([handmade(), handmade(protocol="clean")])


@pytest.mark.parametrize(
    ("model", "facts", "name"),
    [
        ("dit-xl-2-256", {"cfg": 1.25}, "dit-xl-2-g-1.25"),
        ("DiT-XL/2", {"cfg": 1.0}, "dit-xl-2"),
        ("dit-xl-2-512", {"cfg": 1.5, "size": 512}, "dit-xl-2-g-1.50-512"),
        ("dit-xl-2-256", {"cfg": 4.0}, None),
        ("digits", {"cfg": 1.5}, None),
        ("sit-xl-2-256", {"cfg": 1.5}, None),  # sampled by ddpm; the paper's by its SDE
    ],
)
def test_the_papers_row_has_our_model_size_guidance_and_sampler(model, facts, name) -> None:
    assert paper_row(handmade(model=model, **facts)) == (published_results()[name] if name else None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("dit-xl-2-256-diffusers", "DiT-XL/2"), ("SiT-B/4", "SiT-B/4"), ("digits", None), ("dit-xl-22", None)],
)
def test_architecture_of_a_name(name: str, expected: str | None) -> None:
    assert architecture(name) == expected


def test_the_command_prints_the_table_and_refuses_mixtures_and_other_files(tmp_path) -> None:
    adm, clean = tmp_path / "adm.json", tmp_path / "clean.json"
    handmade().save(adm)
    handmade(protocol="clean").save(clean)
    done = CliRunner().invoke(main, ["table2", str(adm)], catch_exceptions=False)
    assert done.stdout.rstrip() == table2([handmade()]).text()
    with pytest.raises(ResultError, match="a single protocol"):
        CliRunner().invoke(main, ["table2", str(adm), str(clean)], catch_exceptions=False)
    (tmp_path / "other.json").write_text("{}")
    for name, words in (("other.json", "not a result"), ("absent.json", "No such file")):
        with pytest.raises(ResultError, match=f"{name}.*{words}"):
            CliRunner().invoke(main, ["table2", str(tmp_path / name)], catch_exceptions=False)
