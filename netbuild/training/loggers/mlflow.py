"""The logger for MLflow."""

import logging
import os
from collections.abc import Mapping
from time import time
from typing import Any

from netbuild.system.packages import package
from netbuild.training.loggers.base import Logger, final_checkpoints
from netbuild.training.loop import Trainer


class MlflowLogger(Logger):
    """Writes settings, losses and measures to MLFLOW_TRACKING_URI, else into ``mlflow.db`` in the run's folder.

    The checkpoints' paths are tags; no file is copied or uploaded. A resumed run keeps its id.

    Raises:
        MissingExtraError: if mlflow, or what it needs for a database, is not installed.
    """

    def __init__(self) -> None:
        # mlflow sends usage data from the moment when it is imported.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        package("mlflow")
        package("mlflow.entities")  # fails where a folder named mlflow is taken for the package
        self.is_local = "MLFLOW_TRACKING_URI" not in os.environ
        if self.is_local:  # mlflow-skinny leaves these two out; mlflow 3.17 refuses stores made of files
            package("sqlalchemy", "mlflow")
            package("alembic", "mlflow")
        self.client: Any = None
        self.id = ""
        self.logged_epoch = 0  # the last one that the store holds

    def open(self, run: Trainer) -> bool:
        """Begin a run of MLflow, or go on with it under the same id."""
        for name in ("mlflow", "alembic"):  # else creating the database is reported in a dozen lines
            logging.getLogger(name).setLevel(logging.WARNING)
        uri = f"sqlite:///{(run.folder / 'mlflow.db').absolute().as_posix()}" if self.is_local else None
        self.client = package("mlflow").MlflowClient(tracking_uri=uri)
        is_new = not self.id
        parameters = {"network": run.network.card.name, **run.settings.to_dict()}
        if is_new:
            self.id = self.client.create_run(self._find_experiment(run), run_name=run.folder.name).info.run_id
        else:
            self.client.update_run(self.id, status="RUNNING")
        self._log_parameters({name: str(value) for name, value in parameters.items()})
        self.logged_epoch = self._find_logged_epoch()
        return is_new

    def log(self, epoch: int, scalars: Mapping[str, float]) -> None:
        """Write the numbers of an epoch, unless a killed run wrote them before its state was saved."""
        if epoch <= self.logged_epoch:
            return
        entities = package("mlflow.entities")
        now = int(time() * 1000)
        self.client.log_batch(self.id, [entities.Metric(name, value, now, epoch) for name, value in scalars.items()])
        self.logged_epoch = epoch

    def close(self, run: Trainer, error: BaseException | None) -> None:
        """Log where the checkpoints are, and end the run of MLflow."""
        for name, path in final_checkpoints(run).items():
            self.client.set_tag(self.id, f"checkpoint.{name}", str(path))
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED" if error else "FINISHED"
        self.client.set_terminated(self.id, status)

    def state_dict(self) -> dict[str, Any]:
        """The id of the run at MLflow."""
        return {"id": self.id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back the id."""
        self.id = state["id"]

    def _find_experiment(self, run: Trainer) -> str:
        """The id of the experiment, which is created if there is none of this name."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "netbuild")
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        # Without a location mlflow would make a folder mlruns/ in the working directory.
        location = (run.folder / "mlflow-artifacts").absolute().as_uri() if self.is_local else None
        return str(self.client.create_experiment(name, artifact_location=location))

    def _log_parameters(self, parameters: Mapping[str, str]) -> None:
        """Log the settings. MLflow's parameters cannot change, so what a resumed run changes becomes a tag."""
        entities = package("mlflow.entities")
        logged = self.client.get_run(self.id).data.params
        new = [entities.Param(name, value) for name, value in parameters.items() if name not in logged]
        self.client.log_batch(self.id, params=new)
        for name, value in parameters.items():
            if logged.get(name, value) != value:
                self.client.set_tag(self.id, f"resumed.{name}", value)

    def _find_logged_epoch(self) -> int:
        """The largest epoch that the store holds of this run, 0 if it holds none."""
        metrics = self.client.get_run(self.id).data.metrics
        steps = [metric.step for name in metrics for metric in self.client.get_metric_history(self.id, name)]
        return max(steps, default=0)
