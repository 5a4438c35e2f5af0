"""What a terminal shows of the names of files."""

from dit_eval.report.terminal import dense_table, render_text


def test_brackets_and_colons_in_a_files_name_are_shown_as_they_are() -> None:
    table = dense_table()
    table.add_column("file")
    table.add_row("runs[1]:smile:.npz")
    assert render_text(table, "[bold]x[/bold].npz").splitlines()[-3:] == [
        " runs[1]:smile:.npz",
        "",
        "[bold]x[/bold].npz",
    ]


def test_a_name_longer_than_a_line_is_one_word() -> None:
    name = "/".join(["folder"] * 20)
    assert render_text(f"{name} against {name}.json, 500 images", width=40).splitlines() == [
        name,
        "against",
        f"{name}.json,",
        "500 images",
    ]
