"""Sweeps that choose their next values by the results so far: Optuna's studies, kept in a file.

Hydra's sweeper for Optuna asks and tells. Here a study outlives its processes: ``n_trials`` are those of the study,
over all processes and sessions, and a trial whose process was killed is asked for again, with the same values, so that
its run goes on from its last checkpoint.
"""

import functools
import os
import socket
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper

from csc_nets.tasks.safe_files import is_alive

if TYPE_CHECKING:  # every training would wait for it
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

__all__ = ["StudySweeper", "open_storage"]

_FILE = "study.log"
_NAME = "sweep"
_WORKER, _REPEATS = "worker", "repeats"
_UNSIGNED = timedelta(minutes=1)


class StudySweeper(OptunaSweeper):
    """Optuna's sweeper for Hydra, on a study that several processes and sessions share.

    Its options are those of ``hydra/sweeper=optuna``, with two that mean more:

    - ``storage``: None for a journal in the folder of the sweep; a file that ends in ``.log`` for another journal,
      which processes on several machines may share; an address such as ``sqlite:///study.db``.
    - ``n_trials``: of the whole study.

    A trial that fails is no result. It is tried again when the same command is given again.
    """

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """What Hydra hands over before the sweep."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self._folder = Path(str(config.hydra.sweep.dir))

    def sweep(self, arguments: list[str]) -> None:
        """Runs trials until the study has all of them.

        Args:
            arguments: options of the command line.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sweeper = self.sweeper
        sweeper.storage = open_storage(sweeper.storage, self._folder)
        sweeper.study_name = sweeper.study_name or _NAME
        sweeper.max_failure_rate = 1.0  # the sweep goes on past them, and counts them at its end
        own = sweeper.custom_search_space_extender
        sweeper.custom_search_space_extender = functools.partial(_sign, own)
        wanted = sweeper.n_trials
        directions: Any = sweeper._get_directions()
        study = optuna.create_study(
            study_name=sweeper.study_name,
            storage=sweeper.storage,
            directions=directions,
            load_if_exists=True,
        )
        complete = (optuna.trial.TrialState.COMPLETE,)
        _repeat_broken(study)
        while (left := wanted - _begun(study.get_trials(deepcopy=False))) > 0:
            sweeper.n_trials = left if isinstance(sweeper.sampler, functools.partial) else min(sweeper.n_jobs, left)
            try:
                sweeper.sweep(arguments)
            except ValueError:
                if study.get_trials(deepcopy=False, states=complete):
                    raise
                # It asks for the best trial, and none has a result yet.
        if not study.get_trials(deepcopy=False, states=complete):
            raise ValueError("no trial has a result: the lines above say why")


def open_storage(storage: Any, folder: Path) -> Any:
    """What keeps a study.

    Args:
        storage: None for a journal in ``folder``, a file that ends in ``.log`` for a journal there, or an address of a
            database.
        folder: of the sweep.
    """
    if storage is None:
        storage = str(folder / _FILE)
    if isinstance(storage, str) and storage.endswith(".log"):
        Path(storage).absolute().parent.mkdir(parents=True, exist_ok=True)
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        return JournalStorage(JournalFileBackend(storage))
    return storage


def _begun(trials: Sequence["FrozenTrial"]) -> int:
    """Trials that count: those that wait for their turn and those that are repeated do not."""
    from optuna.trial import TrialState

    repeated = _repeated(trials)
    return sum(t.state is not TrialState.WAITING and t.number not in repeated for t in trials)


def _repeated(trials: Sequence["FrozenTrial"]) -> set[int]:
    return {t.user_attrs[_REPEATS] for t in trials if _REPEATS in t.user_attrs}


def _repeat_broken(study: "Study") -> None:
    """Asks again for trials that failed, or whose process is gone."""
    from optuna.trial import TrialState

    trials = study.get_trials()
    repeated = _repeated(trials)
    for trial in trials:
        if trial.number in repeated:
            continue
        if trial.state is TrialState.RUNNING and _is_left(trial):
            study.tell(trial.number, state=TrialState.FAIL)
        elif trial.state is not TrialState.FAIL:
            continue
        study.enqueue_trial(trial.params, user_attrs={_REPEATS: trial.number})


def _is_left(trial: "FrozenTrial") -> bool:
    """Whether nobody runs a trial any more. Of a process on another machine nobody here knows: it counts as running."""
    worker = trial.user_attrs.get(_WORKER)
    if worker is None:  # its process was stopped before it could sign, or is about to
        return trial.datetime_start is not None and datetime.now() - trial.datetime_start > _UNSIGNED
    host, _, pid = str(worker).rpartition(":")
    return host == socket.gethostname() and not is_alive(int(pid))


def _sign(own: Any, config: Any, trial: "Trial") -> None:
    """Writes into a trial who runs it, then does what the user's ``custom_search_space`` does."""
    trial.set_user_attr(_WORKER, f"{socket.gethostname()}:{os.getpid()}")
    if own is not None:
        own(config, trial)
