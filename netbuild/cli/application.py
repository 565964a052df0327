"""The command line. torch is imported inside commands only, so that --help and completion stay quick."""

import atexit
import os
import sys
from importlib import import_module

from netbuild.cli.flags import app, is_one_of_several
from netbuild.cli.terminal import say, state
from netbuild.errors import NetbuildError

_FILES = "summary graph diff watch build training predict export eject view data author schema"  # as --help has them
for _file in _FILES.split():
    import_module(f"netbuild.cli.{_file}")


def main() -> None:
    """Run the command line: errors of the user's become one message on stderr and an exit code."""
    try:
        app()
    except NetbuildError as error:
        if state.debug:
            raise
        if str(error):
            say(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        if "netbuild.system.processes" not in sys.modules or not sys.modules["netbuild.system.processes"].is_launched():
            say("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(_end_of_pipe())
    except OSError as error:
        if state.debug or error.filename is not None:  # of a file that a command opens: its own matter
            raise
        sys.exit(_refused(error))


def entry() -> None:
    """What the installed command runs: `main`, and after commands that only print an exit without clearing up."""
    code: object = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = _end_of_pipe()
    except OSError as error:
        code = _refused(error)
    if _may_have_joined() and isinstance(code, int):
        atexit._run_exitfuncs()
        os._exit(code)  # gloo's threads now and then abort a process that ends in an orderly way
    if state.only_printed and isinstance(code, int):
        os._exit(code)  # freeing a million objects one by one takes up to a fifth of the run
    sys.exit(code)  # type: ignore[arg-type]


def _may_have_joined() -> bool:
    """Without torch, where it is not there yet: then nothing has been joined either."""
    return "netbuild.system.processes" in sys.modules and is_one_of_several()


def _refused(error: OSError) -> int:
    """Standard output takes no more, such as a full disk: said once, exit code 2."""
    say(f"error: the output cannot be written: {error.strerror or error}")
    _end_of_pipe()
    return 2


def _end_of_pipe() -> int:
    # The reader of the pipe has seen enough; keep Python from complaining again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
