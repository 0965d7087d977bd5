"""`match-server reembed`: a collection's change to other face models."""

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from match_server.commands.options import json_flag, print_result, with_settings
from match_server.commands.progress import progress

if TYPE_CHECKING:
    from match_server.container import Services
    from match_server.services.faces.face_engine import FaceEngine
    from match_server.services.model_change.comparison import Comparison
    from match_server.services.model_change.state import ChangeState
    from match_server.settings import Settings

_LISTED = 20  # persons without a photo; --json lists them all
_TRIES = 5  # templates may be enrolled between the last look and the switch
_FIGURES = {
    "genuine_mean": "similarity of genuine pairs, mean",
    "genuine_sd": "  standard deviation",
    "impostor_mean": "similarity of impostors, mean",
    "impostor_sd": "  standard deviation",
    "d_prime": "d′",
    "first_right": "own template is most similar",
    "threshold": "threshold",
    "fmr": "FMR at the threshold",
    "fnmr": "FNMR at the threshold",
}


@click.command(short_help="Move a collection to other face models.")
@click.argument("collection")
@click.option("--pack", help="Installed pack with the other face models.")
@click.option("--compare", is_flag=True, help="Compare both models on the kept photos.")
@click.option("--switch", is_flag=True, help="Use the other model, once everything is prepared.")
@click.option(
    "--threshold",
    type=click.FloatRange(-1, 1),
    help="With --switch: the similarity from which somebody is identified with the new model, in "
    "place of a target FPIR.",
)
@click.option(
    "--accept-missing",
    is_flag=True,
    help="With --switch or --rollback: leave templates behind that cannot be made again.",
)
@click.option("--rollback", is_flag=True, help="Go back to the model from before the switch.")
@click.option("--finish", is_flag=True, help="Delete the templates of the model not in use.")
@with_settings
@json_flag
def reembed(
    settings: "Settings",
    collection: str,
    pack: str | None,
    compare: bool,
    switch: bool,
    threshold: float | None,
    accept_missing: bool,
    rollback: bool,
    finish: bool,
    as_json: bool,
) -> None:
    """Give a collection the templates of other face models, made from its kept photos.

    The server uses the old ones meanwhile. After an interruption, call it again: it goes on from
    there. A target FPIR (`target_fpir`) stays, by the new model's reference calibration; a fixed
    threshold does not, since thresholds of two models have nothing to do with each other. Until
    --finish, --rollback is possible. The boxes of the collection need the new pack as well: after
    the switch, their probes of the old model are refused.

    \b
    Examples:
      match-server reembed staff --pack opencv-zoo --compare
      match-server reembed staff --switch
      match-server reembed staff --rollback
      match-server reembed staff --finish
    """
    from match_server.process.open_services import open_services

    if sum((switch, rollback, finish)) > 1:
        raise click.UsageError("--switch, --rollback and --finish are one step each")
    if threshold is not None and not switch:
        raise click.UsageError("--threshold goes with --switch")
    with open_services(settings) as services:
        if finish:
            count = services.reembedding.finish(collection)
            text = f"{collection}: {count} templates of the model not in use are deleted."
            print_result(as_json, {"collection": collection, "deleted": count}, text)
            return
        models = _models(services, collection, pack)

        def step() -> "ChangeState":
            if switch:
                return services.reembedding.switch(
                    collection, threshold, accept_left=accept_missing
                )
            if rollback:
                return services.reembedding.rollback(collection, accept_left=accept_missing)
            return services.reembedding.state(collection)

        state = _prepared(services, collection, models, step)
        compared = services.comparisons.compare(collection) if compare else None
    value = asdict(state) | ({} if compared is None else {"comparison": asdict(compared)})
    print_result(as_json, value, "\n".join([*_progress(state), *_compared(compared)]))


def _models(services: "Services", collection: str, pack: str | None) -> "FaceEngine":
    """Returns the models to make templates with: those of the pack, or of the current change."""
    from match_server.services.faces.engines import installed_engine
    from models.packs.choice import DetectorChoice

    if pack is None:
        state = services.reembedding.state(collection)
        return services.engines.of_model(state.other_model_id)
    settings = services.settings
    detector = DetectorChoice(settings.model_detector)
    return installed_engine(pack, settings.picture_limits, detector)


def _prepared(
    services: "Services",
    collection: str,
    models: "FaceEngine",
    step: Callable[[], "ChangeState"],
) -> "ChangeState":
    """Prepares the templates and takes the step; again, if templates were enrolled in between."""
    from match_server.services.model_change.reembedding import NotPrepared

    for tries_left in reversed(range(_TRIES)):
        with progress(collection) as display:
            services.reembedding.prepare(collection, models, display.update)
        try:
            return step()
        except NotPrepared:
            if not tries_left:
                raise
    raise RuntimeError("unreachable: the last try returns or raises")


def _progress(state: "ChangeState") -> list[str]:
    lines = [
        f"{state.collection} uses {state.model_id}; "
        f"{state.done} of {state.templates} templates are there of {state.other_model_id}."
    ]
    if state.left:
        lines.append(f"{len(state.left)} cannot be made again; their persons need new photos:")
        lines += [f"  {left.person}  {left.reason}" for left in state.left[:_LISTED]]
        if len(state.left) > _LISTED:
            lines.append(f"  … and {len(state.left) - _LISTED} more (--json lists them all)")
    if state.switched:
        lines.append("--rollback leads back; --finish deletes the old templates.")
    return lines


def _compared(compared: "Comparison | None") -> list[str]:
    if compared is None:
        return []
    lines = [
        f"{compared.templates} templates of {compared.persons} persons: {compared.genuine} genuine "
        f"and {compared.impostor} impostor comparisons",
        f"{'':34}{'in use':>12}{'other':>12}",
    ]
    for name, label in _FIGURES.items():
        current, other = (getattr(side, name) for side in (compared.current, compared.other))
        lines.append(f"{label:34}{_figure(current):>12}{_figure(other):>12}")
    lines.append(
        f"At {compared.other.threshold:.4g} the other model's FMR is no higher than at "
        f"{compared.current.threshold:.4g} now."
    )
    if compared.impostor:
        lines.append(
            f"An FMR below {1 / compared.impostor:.1e} cannot be seen with so few comparisons: "
            "measure with `match-server evaluate` before you rely on it."
        )
    return lines


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
