"""The command line: `dycoke-lab run`, `study`, `bench`, and commands that make the committed data."""

from __future__ import annotations

import argparse
import sys
import warnings

from dycoke_lab.cli.bench import add_bench
from dycoke_lab.cli.evidence import (
    add_costs,
    add_diagnoses,
    add_grid,
    add_matrix,
    add_specimen,
    add_study,
    summarise,
)
from dycoke_lab.cli.options import one_line
from dycoke_lab.cli.videos import add_diagnose, add_fidelity, add_run


def main(arguments: list[str] | None = None) -> None:
    """Run a command. An error is one line, with exit code 1, unless --debug is given; wrong usage has 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments  # before or after the command
    parser = argparse.ArgumentParser("dycoke-lab", description="Study token compression for video LLMs.")
    parser.add_argument("--debug", action="store_true", help="show where an error comes from")
    commands = parser.add_subparsers(required=True, title="commands", metavar="COMMAND")
    add_run(commands)
    add_diagnose(commands)
    add_fidelity(commands)
    add_study(commands)
    add_bench(commands)
    add_grid(commands, "evidence", 512, "all methods, ratios and questions on one specimen")
    add_grid(commands, "sweep", 128, "ratios and similarity thresholds on one specimen")
    add_diagnoses(commands)
    add_matrix(commands)
    add_costs(commands)
    summary = commands.add_parser("summary", help="tables and figure of the committed evidence")
    summary.set_defaults(do=summarise)
    add_specimen(commands)
    options = parser.parse_args([argument for argument in arguments if argument != "--debug"])
    warnings.formatwarning = _warning_line  # type: ignore[assignment]
    if getattr(options, "threads", None):
        import torch

        torch.set_num_threads(options.threads)
    try:
        options.do(options)
    except KeyboardInterrupt:
        print(f"\nInterrupted. {getattr(options, 'saved', '')}", file=sys.stderr)
        raise SystemExit(130) from None  # a shell's code for Ctrl-C
    except BrokenPipeError:  # the reader, as `head`, has read enough
        raise SystemExit(141) from None
    except Exception as error:
        if debug:
            raise
        raise SystemExit(one_line(error)) from error


def _warning_line(message: Warning | str, *_: object) -> str:
    return f"warning: {' '.join(str(message).split())}\n"
