"""The command line. torch is imported inside commands only, so that --help and completion stay quick."""

import atexit
import os
import sys
from importlib import import_module

from netbuild.cli.flags import app
from netbuild.cli.terminal import say, state
from netbuild.errors import NetbuildError, forget_notes

# In the order of --help.
_FILES = (
    "summary graph diff editing watch build training predict sample track export eject convert view data author schema"
)
for _file in _FILES.split():
    import_module(f"netbuild.cli.{_file}")


def main() -> None:
    """Run the command line; a NetbuildError becomes one message on stderr and an exit code."""
    forget_notes()
    if _is_one_of_several():  # an error of ours says why a connection failed, not a backtrace of torch's C++ code
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    try:
        if "" in sys.argv[1:]:  # as a path it would be the working directory
            raise NetbuildError("an argument is empty", hint="is a variable of the shell not set?")
        app()
    except NetbuildError as error:
        if state.debug:
            raise
        if str(error):
            say(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        if "netbuild.system.launching" not in sys.modules or not sys.modules["netbuild.system.launching"].is_launched():
            say("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(_end_of_pipe())
    except OSError as error:
        if state.debug or error.filename is not None:  # an error of a file that a command opens, not of stdout
            raise
        sys.exit(_refused(error))


def entry() -> None:
    """Run `main` as the console script; after commands that only print, exit without freeing memory."""
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
    if code and isinstance(code, int) and {"train", "val"} & set(sys.argv[1:2]) and _is_one_of_several():
        from netbuild.system.processes import report_early_failure

        report_early_failure(code)
    if _may_have_joined() and isinstance(code, int):
        atexit._run_exitfuncs()
        os._exit(code)  # gloo's threads now and then abort a process that ends in an orderly way
    if state.only_printed and isinstance(code, int):
        os._exit(code)  # freeing a million objects one by one takes up to a fifth of the run
    sys.exit(code)  # type: ignore[arg-type]


def _is_one_of_several() -> bool:
    """Whether the environment is that of one of several processes; found out without torch."""
    return os.environ.get("WORLD_SIZE", "1") not in ("0", "1") or "SLURM_PROCID" in os.environ


def _may_have_joined() -> bool:
    """Whether this process may have joined a process group; must not import torch to find out."""
    return "netbuild.system.processes" in sys.modules and _is_one_of_several()


def _refused(error: OSError) -> int:
    """Report that stdout cannot be written, such as on a full disk; return exit code 2."""
    say(f"error: the output cannot be written: {error.strerror or error}")
    _end_of_pipe()
    return 2


def _end_of_pipe() -> int:
    # The reader of the pipe has seen enough; keep Python from complaining again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
