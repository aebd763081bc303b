"""The storage that the workers of a study share, opened so that several may begin at once."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterator
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from medseg3d.faults import Fault, UsageFault

DATABASE_ERRORS = (SQLAlchemyError, optuna.exceptions.StorageInternalError)
"""What Optuna raises when a database fails."""

_ATTEMPTS = 6


class _Storage(RDBStorage):
    """Optuna's storage, whose thread of signs of life outlives a database that is away for a moment."""

    def record_heartbeat(self, trial_id: int) -> None:
        """Record one; the next comes in time where this one fails."""
        with contextlib.suppress(*DATABASE_ERRORS):
            super().record_heartbeat(trial_id)


def open_storage(url: str, heartbeat_s: int, grace_s: int) -> RDBStorage:
    """The database of a URL as Optuna's storage, its tables made if they are not there.

    Args:
        url: as SQLAlchemy has it.
        heartbeat_s: seconds between signs of life of a running trial.
        grace_s: seconds without one after which a trial is begun again.

    Raises:
        Fault: `BAD_VALUE` for no URL, `MISSING_PACKAGE` for a driver that is not installed, `STORAGE` for a database
            that cannot be used; none shows the password.
    """
    try:
        sqlite = sqlalchemy.engine.make_url(url).get_backend_name() == "sqlite"
    except ArgumentError as error:
        raise _no_url() from error
    engine: dict[str, Any] = {"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True}
    for attempt in range(_ATTEMPTS):
        try:
            storage = _Storage(
                url,
                engine_kwargs=engine,
                heartbeat_interval=heartbeat_s,
                grace_period=grace_s,
                heartbeat_stale_trial_callback=begin_again,
            )
            break
        except ArgumentError as error:
            raise _no_url() from error
        except ImportError as error:
            driver = error.__cause__ or error
            raise Fault(
                "MISSING_PACKAGE",
                _without_password(url),
                " ".join(str(driver).split()),
                "the driver of that database",
                "pip install 'psycopg[binary]' for postgresql+psycopg://",
            ) from error
        except (*DATABASE_ERRORS, RuntimeError) as error:
            # of two workers that make the tables at once, one fails; it finds them there when it tries again
            if attempt == _ATTEMPTS - 1:
                raise storage_fault(url, error) from error
            time.sleep(0.1 * 2**attempt)
    if sqlite:
        _lock_before_reading(storage.engine)
    return storage


def begin_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Let a trial that has failed wait to be begun again, with its values, attributes and scores so far."""
    RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(study, trial)


def storage_fault(url: str, error: BaseException) -> Fault:
    """`STORAGE`, with what the database says and without its password."""
    said = str(getattr(error, "orig", None) or error)
    return Fault(
        "STORAGE",
        _without_password(url),
        " ".join(said.split())[:300],
        "a database that can be written to",
        "mend that; the same command goes on",
    )


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Context without Optuna's log, as a line is said of every trial, and its warnings of what is experimental."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(before)


def _lock_before_reading(engine: sqlalchemy.Engine) -> None:
    """Let every transaction on SQLite begin with the lock for writing (SQLAlchemy's own recipe).

    As it is, the lock is taken with the first write, and two workers that have both read that a trial waits take both.
    """

    def leave_transactions_alone(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    def begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    sqlalchemy.event.listen(engine, "connect", leave_transactions_alone)
    sqlalchemy.event.listen(engine, "begin", begin)
    engine.dispose()  # the connections that were opened before


def _no_url() -> Fault:
    return UsageFault(
        "BAD_VALUE",
        "--storage",
        "no URL of a database that SQLAlchemy knows",  # without the text: there may be a password in it
        "for instance sqlite:////data/study.db or postgresql+psycopg://user:password@host/database",
    )


def _without_password(url: str) -> str:
    return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)
