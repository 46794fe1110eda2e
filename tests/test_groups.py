"""Options that are declared together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from granite_gguf.cli.groups import command


@dataclass(frozen=True)
class Size:
    width: Annotated[int, typer.Option("-w", "--width", help="Across.")]
    height: Annotated[int, typer.Option(help="Upwards.")] = 3


@dataclass(frozen=True)
class Solid(Size):
    depth: Annotated[int, typer.Option(help="Inwards.")] = 5


def test_a_group_is_an_option_for_each_field() -> None:
    app = typer.Typer()
    given = []

    @app.command()
    @command
    def build(
        name: Annotated[str, typer.Argument()],
        *,
        size: Solid,
        quick: Annotated[bool, typer.Option()] = False,
    ) -> None:
        """Builds it."""
        given.append((name, size, quick))

    result = CliRunner().invoke(app, ["box", "-w", "2", "--depth", "7", "--quick"])
    assert result.exit_code == 0, result.output
    assert given == [("box", Solid(2, 3, 7), True)]
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "90", "NO_COLOR": "1"}).output
    assert all(text in shown for text in ("Builds it.", "Across.", "--height", "Inwards."))
    assert "--size" not in shown
    assert CliRunner().invoke(app, ["box"]).exit_code == 2  # a width is wanted
