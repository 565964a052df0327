"""The list of a run's callbacks, in a file of its own: `Callback` needs `Trainer`, and `Trainer` needs this list."""

import json
from collections.abc import Mapping
from typing import Any

from netbuild.errors import NetbuildError, shorten
from netbuild.system.processes import fail_together, is_main_process, world_size


class CallbackList(list[Any]):
    """The callbacks of a run, called in order.

    Attributes:
        deferred_error: the exception of a batch hook in a distributed run, until `raise_deferred_error` raises it.
    """

    deferred_error: Exception | None = None

    def call(self, hook: str, *arguments: Any) -> None:
        """Call a hook of every callback, on rank 0 only."""
        if is_main_process():
            for callback in self:
                getattr(callback, hook)(*arguments)

    def call_batch_hook(self, hook: str, *arguments: Any) -> None:
        """Call a batch hook of every callback, on rank 0 only; in a distributed run an exception is deferred.

        The other ranks would wait for rank 0 in their next backward pass, and telling them of the exception after every
        batch would cost time. So rank 0 goes on, without callbacks, until all ranks call `raise_deferred_error`.
        """
        if self.deferred_error is not None:
            return
        try:
            self.call(hook, *arguments)
        except Exception as error:  # a callback may raise anything
            if world_size() == 1:
                raise
            self.deferred_error = error

    def raise_deferred_error(self) -> None:
        """Raise the exception of a batch hook, on rank 0, and PeerFailedError on the other ranks (collective)."""
        with fail_together():
            error, self.deferred_error = self.deferred_error, None
            if error is not None:
                raise error

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all callbacks that have one, by the names of `_name_callbacks`.

        Raises:
            NetbuildError: if a state is not JSON data.
        """
        states = {name: callback.state_dict() for name, callback in self._name_callbacks().items()}
        for name, state in states.items():
            try:
                json.dumps(state)
            except (TypeError, ValueError) as error:
                raise NetbuildError(f"the state of the callback {name} is not JSON data: {shorten(error)}") from error
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Pass each callback its saved state; callbacks that are new to the run are left as they are."""
        for name, callback in self._name_callbacks().items():
            if name in states:
                callback.load_state_dict(states[name])

    def _name_callbacks(self) -> dict[str, Any]:
        """Return each callback by the name of its class; a second one of the same class is NAME-2."""
        named: dict[str, Any] = {}
        for callback in self:
            name = kind = type(callback).__name__
            count = 1
            while name in named:
                count += 1
                name = f"{kind}-{count}"
            named[name] = callback
        return named
