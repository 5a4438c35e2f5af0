"""Table 2: the paper's rows as printed, comparable results with them, and the others with the reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
from click.testing import CliRunner

from dit_eval.cli import main
from dit_eval.errors import AssetError, ResultError
from dit_eval.results import published
from dit_eval.results.published import architecture, published_gflops, published_results
from dit_eval.results.result import Result
from dit_eval.results.table2 import ComparableTable, paper_row, paper_rows, table2
from tests.handmade import handmade


def line(text: str, start: str) -> list[str]:
    (row,) = (row for row in text.splitlines() if row.strip().startswith(start))
    return row.split()


def only_table(*results: Result) -> ComparableTable:
    (table,) = table2(results).tables
    return table


def test_the_papers_fifteen_rows_stand_as_printed() -> None:
    rows = paper_rows()
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
    text = table2([handmade(cfg=1.5, fid=2.21, recall=0.58)]).text(width=80)
    assert text.count(" FID↓ ") == 1
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
def test_any_other_result_has_a_table_of_its_own_with_the_reason(facts: dict, reason: str) -> None:
    comparable, separate = table2([handmade(**facts), handmade()]).tables
    assert [row.n for row in comparable.rows] == [50_000]
    assert len(comparable.paper) == 15
    assert separate.paper == ()
    (row,) = separate.rows
    assert row.paper is None
    assert reason in " ".join(separate.text().split())


def test_guidance_on_all_channels_is_not_that_of_the_papers_rows() -> None:
    result = handmade()
    result.samples["plan"]["cfg_channels"] = "all"
    table = only_table(result)
    assert table.paper == ()
    assert "guidance on all channels, not 3" in table.text()


def test_results_that_check_would_not_compare_share_no_table_whatever_their_guidance() -> None:
    balanced = handmade(cfg=1.5)
    balanced.samples["plan"]["labels"] = "balanced"
    first, second = table2(
        [handmade(n=500), handmade(n=500, cfg=1.5), replace(balanced, samples={**balanced.samples, "n": 500})]
    ).tables
    assert [row.name for row in first.rows] == ["dit-xl-2-256 (cfg=1.00)", "dit-xl-2-256 (cfg=1.50)"]
    assert [row.name for row in second.rows] == ["dit-xl-2-256 (cfg=1.50, labels=balanced)"]
    assert "labels (not recorded there, balanced here)" in " ".join(second.text().split())


def test_intervals_stand_below_the_numbers_and_are_never_shown_as_zero() -> None:
    text = table2([handmade(error=0.0033)]).text(width=80)
    assert line(text, "± 95 %") == ["±", "95", "%", *["0.003"] * 5]
    assert "± 95 %" not in table2([handmade()]).text()
    assert line(table2([handmade(error=0.5)]).text(), "± 95 %")[-5:] == ["0.50"] * 5


def test_a_number_that_rounds_to_zero_has_no_sign() -> None:
    assert only_table(handmade(fid=-1e-9)).rows[0].cells()["fid"] == "0.00"


def test_the_reference_counts_by_its_name_or_by_the_name_of_its_file() -> None:
    assert only_table(handmade(reference="refs/VIRTUAL_imagenet256_labeled.npz")).paper


def test_a_batch_of_unknown_origin_has_no_row_of_the_paper() -> None:
    table = only_table(handmade(model=None, samples="runs/other.npz"))
    assert len(table.paper) == 15
    (row,) = table.rows
    assert (row.name, row.paper) == ("other.npz", None)


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


def test_the_command_prints_the_tables_and_refuses_other_files(tmp_path) -> None:
    adm, clean = tmp_path / "adm.json", tmp_path / "clean.json"
    handmade().save(adm)
    handmade(protocol="clean").save(clean)
    done = CliRunner().invoke(main, ["table2", str(adm), str(clean)], catch_exceptions=False)
    assert done.stdout.rstrip() == table2([handmade(), handmade(protocol="clean")]).text()
    (tmp_path / "other.json").write_text("{}")
    for name, words in (("other.json", "not a result"), ("absent.json", "no such file")):
        with pytest.raises(ResultError, match=f"{name}.*{words}"):
            CliRunner().invoke(main, ["table2", str(tmp_path / name)], catch_exceptions=False)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[results.x]\nlable = 'X'", r"published\.toml: entry \[results\.x\] has the unknown key 'lable'"),
        ("[results.x]\nlabel = 'X'", r"entry \[results\.x\] lacks the key 'image_size'"),
        ("[[gflops]]\nmodel = 'X'\ngflop = 3", r"entry \[gflops 0\] has the unknown key 'gflop'"),
        ("results = [", "cannot be read as TOML"),
    ],
)
def test_a_mistake_in_the_published_rows_is_an_error_that_names_it(
    tmp_path, monkeypatch: pytest.MonkeyPatch, content: str, words: str
) -> None:
    (tmp_path / "published.toml").write_text(content)
    monkeypatch.setattr(published, "folder", lambda kind: tmp_path)
    with pytest.raises(AssetError, match=words):
        _ = published_results.__wrapped__(), published_gflops()
