"""``testbed VERB ...``: loads verbs lazily (so that ``ps`` does not import torch) and turns errors into exit codes.

Exit codes: 0 done, 1 failed while running, 2 bad input (nothing was started), 3 the host lacks something,
4 the run finished but is invalid, 130, 143 or 129 ended by Ctrl-C, SIGTERM or SIGHUP.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import traceback

import click

import testbed
from testbed import folders, interrupts
from testbed.cli import terminal
from testbed.cli.again import again
from testbed.cli.groups import GROUPS, page_of
from testbed.errors import TestbedError, os_error_text
from testbed.lab.lab import ElsewhereError
from testbed.runtime.netns import rootless

#: verb -> module under testbed.cli that holds ``command``; several verbs may share a module (``module:attribute``)
VERBS = {
    "init": "init",
    "examples": "examples",
    "doctor": "doctor",
    "validate": "validate",
    "plan": "plan",
    "schema": "schema",
    "up": "up",
    "ps": "ps",
    "logs": "logs",
    "exec": "exec",
    "graph": "graph",
    "link": "link",
    "policy": "policy",
    "down": "down",
    "verify": "verify",
    "run": "run",
    "simulate": "simulate",
    "train": "train",
    "profile": "profile",
    "trace": "trace",
    "report": "report",
    "compare": "compare",
    "sweep": "sweep",
    "campaign": "campaign",
    "images": "images",
    "completion": "completion",
}


class LazyVerbs(click.Group):
    def list_commands(self, _context: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command = importlib.import_module(f"testbed.cli.{VERBS[name]}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """By what they are for."""
        longest = max(map(len, VERBS))
        for title, verbs in GROUPS.items():
            found = [(verb, self.get_command(context, verb)) for verb in verbs]
            with formatter.section(title):
                formatter.write_dl(
                    [
                        (verb.ljust(longest), command.get_short_help_str(formatter.width - longest - 6))
                        for verb, command in found
                        if command is not None
                    ]
                )


@click.group(cls=LazyVerbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(testbed.__version__, prog_name="testbed")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def group(context: click.Context, debug: bool) -> None:
    """Emulated testbed for split (device-edge) DNN inference."""
    context.obj = {"debug": debug}


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command ``testbed``."""
    debug = "--debug" in (sys.argv[1:] if arguments is None else arguments)
    interrupts.install()
    terminal.prepare()
    try:
        folders.give_libraries_a_place()
        code = group.main(args=arguments, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        where = f" See: {error.ctx.command_path} --help" if isinstance(error, click.UsageError) and error.ctx else ""
        click.echo(f"error: {' '.join(error.format_message().split())}{where}", err=True)
        sys.exit(2)
    except (click.exceptions.Abort, KeyboardInterrupt):
        with contextlib.suppress(OSError):  # a terminal that has gone
            click.echo("interrupted", err=True)
        sys.exit(interrupts.exit_code())
    except ElsewhereError as elsewhere:
        sys.exit(rootless.run_in_lab(elsewhere.holder, again(arguments)))
    except TestbedError as error:
        if debug:
            traceback.print_exc()
        page = page_of(error, sys.argv[1:] if arguments is None else arguments)
        click.echo(f"error: {error}{f' See docs/{page}.' if page else ''}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        if debug:
            traceback.print_exc()
        click.echo(f"error: {os_error_text(error)}", err=True)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
