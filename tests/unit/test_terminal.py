"""What a terminal shows of names that look like rich's markup."""

from dit_eval.terminal import dense_table, shown


def test_brackets_and_colons_in_a_files_name_are_shown_as_they_are() -> None:
    table = dense_table()
    table.add_column("file")
    table.add_row("runs[1]:smile:.npz")
    assert shown(table, "[bold]x[/bold].npz").splitlines()[-3:] == [
        " runs[1]:smile:.npz",
        "",
        "[bold]x[/bold].npz",
    ]
