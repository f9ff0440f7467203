"""Automations: what the server itself does about runs, night and day; as code, so that it can be reviewed and restored.

    crashed run        no heartbeat for three times its interval: the run is marked Crashed, so that it is not Running
                       for ever, and its deployment's concurrency limit lets the next one in
    failure notice     a run that ended as Failed, PartlyDone or Crashed
    late run           one that should have begun, and no worker took
    no run tonight     no night ended within 26 hours: the schedule, the worker or the machine is away

All are about runs with the tag `segcore`, the first one also about those that a night starts (`segcore-portion`).
Notices go to a notification block of the server (Slack, mail, a webhook); without one the automations stand, and only
Prefect's own pages show that they fired.
"""

from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, ChangeFlowRunState, DoNothing, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

TAG = "segcore"
PORTION_TAG = "segcore-portion"
"""Of runs that a night starts and tells of; nobody else is told."""
OURS = {"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"}
BOTH = {**OURS, "prefect.resource.id": [f"prefect.tag.{TAG}", f"prefect.tag.{PORTION_TAG}"]}
RUNS = {"prefect.resource.id": "prefect.flow-run.*"}
BEATS = 3
"""Heartbeats that may be missed."""
NIGHT_HOURS = 26
"""From the end of a night to that of the next one: a day, and two hours for one that takes longer."""
SAID = (
    "{{ flow.name }} ({{ flow_run.name }}) is {{ flow_run.state.name }}: {{ flow_run.state.message }}\n\n"
    "{{ flow_run|ui_url }}\n\nNothing that is finished is lost. To go on from there:\n"
    "prefect deployment run '{{ flow.name }}/{{ deployment.name }}'"
)


def automations(nightly: UUID, heartbeat_s: int, block: UUID | None) -> list[AutomationCore]:
    """All automations.

    Args:
        nightly: the deployment whose nights are awaited.
        heartbeat_s: seconds between two heartbeats of a run (`PREFECT_FLOWS_HEARTBEAT_FREQUENCY` of the worker).
        block: the notification block; None = nobody is told.
    """
    silence_s = BEATS * heartbeat_s
    crashed = ChangeFlowRunState(
        state=StateType.CRASHED, message=f"no heartbeat for {silence_s} s; run it again, it goes on where it was"
    )
    ours: dict[str, Any] = {"match": RUNS, "match_related": OURS, "for_each": {"prefect.resource.id"}}
    return [
        AutomationCore(
            name=f"{TAG}: crashed run",
            description="A run whose process is gone, without a word, is marked Crashed.",
            trigger=EventTrigger(  # of our runs alone: those of others on the server may beat more slowly
                after={"prefect.flow-run.heartbeat"},
                expect={"prefect.flow-run.*"},
                posture=Posture.Proactive,
                within=timedelta(seconds=silence_s),
                **{**ours, "match_related": BOTH},
            ),
            actions=[crashed],
        ),
        AutomationCore(
            name=f"{TAG}: failure notice",
            description="Tells of a run that did not do all of its work.",
            trigger=_any_of("Failed", "PartlyDone", "Crashed", "TimedOut", **ours),
            actions=[_notice(block, "segcore: {{ flow.name }} is {{ flow_run.state.name }}", SAID)],
        ),
        AutomationCore(
            name=f"{TAG}: late run",
            description="Tells of a run that no worker has taken in time.",
            trigger=_any_of("Late", **ours),
            actions=[_notice(block, "segcore: {{ flow.name }} is late", "No worker has taken it; is one running?")],
        ),
        AutomationCore(
            name=f"{TAG}: no run tonight",
            description=f"Tells when no night has ended for {NIGHT_HOURS} hours.",
            trigger=EventTrigger(
                expect={f"prefect.flow-run.{state}" for state in ("Completed", "TimeUp", "PartlyDone", "Failed")},
                match=RUNS,
                match_related={"prefect.resource.id": f"prefect.deployment.{nightly}"},
                posture=Posture.Proactive,
                within=timedelta(hours=NIGHT_HOURS),
            ),
            actions=[_notice(block, "segcore: no night", f"No night has ended for {NIGHT_HOURS} hours.")],
        ),
    ]


def _any_of(*states: str, **matching: Any) -> EventTrigger:
    expected = {f"prefect.flow-run.{state}" for state in states}
    return EventTrigger(expect=expected, posture=Posture.Reactive, threshold=1, **matching)


def _notice(block: UUID | None, subject: str, body: str) -> ActionTypes:
    return DoNothing() if block is None else SendNotification(block_document_id=block, subject=subject, body=body)
