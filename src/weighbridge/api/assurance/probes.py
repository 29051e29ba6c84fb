"""Admin routes of acceptance probes."""

from weighbridge.acceptance import service, store
from weighbridge.acceptance.examiner import Exam, examine
from weighbridge.acceptance.store import Scope
from weighbridge.api.admin.router import admin_router
from weighbridge.api.assurance.probe_shapes import (
    ProbesAnswer,
    ProbesRequest,
    TrialAnswer,
    TrialRequest,
)
from weighbridge.api.deps import Control
from weighbridge.endpoints import service as endpoints
from weighbridge.errors import ConflictError, InvalidError, UnavailableError
from weighbridge.registry import service as registry
from weighbridge.replicas.accepting import serving_target

router = admin_router()


@router.get("/architectures/{model_arch_id}/probes", operation_id="get_architecture_probes")
async def of_architecture(model_arch_id: str, control: Control) -> ProbesAnswer:
    """Retrieve what new replicas of an architecture must answer."""
    async with control.database.begin() as tx:
        await registry.architecture(tx, model_arch_id)
        return ProbesAnswer.of(await store.find(tx, Scope.ARCHITECTURE, model_arch_id))


@router.put("/architectures/{model_arch_id}/probes", operation_id="set_architecture_probes")
async def set_of_architecture(
    model_arch_id: str, body: ProbesRequest, control: Control
) -> ProbesAnswer:
    """Replace them all; replicas that are started later are asked the new ones."""
    probes = [one.probe() for one in body.probes]
    await service.check(probes)
    async with control.database.begin() as tx:
        await registry.architecture(tx, model_arch_id, lock=True)
        now = control.clock.now()
        return ProbesAnswer.of(
            await service.replace(tx, Scope.ARCHITECTURE, model_arch_id, probes, now=now)
        )


@router.get("/endpoints/{endpoint_id}/probes", operation_id="get_endpoint_probes")
async def of_endpoint(endpoint_id: str, control: Control) -> ProbesAnswer:
    """Retrieve what new replicas of an endpoint must answer beside its architecture's probes."""
    async with control.database.begin() as tx:
        await endpoints.get(tx, endpoint_id, org_id=None)
        return ProbesAnswer.of(await store.find(tx, Scope.ENDPOINT, endpoint_id))


@router.put("/endpoints/{endpoint_id}/probes", operation_id="set_endpoint_probes")
async def set_of_endpoint(endpoint_id: str, body: ProbesRequest, control: Control) -> ProbesAnswer:
    """Replace them all; one with the name of an architecture's takes its place."""
    probes = [one.probe() for one in body.probes]
    await service.check(probes)
    async with control.database.begin() as tx:
        await endpoints.get(tx, endpoint_id, org_id=None, lock=True)
        now = control.clock.now()
        return ProbesAnswer.of(
            await service.replace(tx, Scope.ENDPOINT, endpoint_id, probes, now=now)
        )


@router.post("/endpoints/{endpoint_id}/probes:run", operation_id="run_endpoint_probes")
async def run(endpoint_id: str, body: TrialRequest, control: Control) -> TrialAnswer:
    """Ask a serving replica the probes, or others, and change nothing: to try them before they count."""
    given = None if body.probes is None else [one.probe() for one in body.probes]
    if given is not None:
        await service.check(given)
    async with control.database.begin() as tx:
        await endpoints.get(tx, endpoint_id, org_id=None)
        probes = given if given is not None else await store.of_endpoint(tx, endpoint_id)
        serving = await store.serving(tx, endpoint_id)
    if not probes:
        raise InvalidError(
            f"Endpoint {endpoint_id} has no acceptance probes; send some, or set them first.",
            code="no_probes",
            param="probes",
        )
    if serving is None:
        raise ConflictError(
            f"No replica of endpoint {endpoint_id} serves now; deploy a version first.",
            code="nothing_serves",
        )
    if control.probe_session is None:
        raise UnavailableError("This server asks no replicas.", code="runtime_unavailable")
    target = serving_target(serving, control.pepper)
    try:
        with control.trial_calls.turn(endpoint_id, control.clock.monotonic()):
            results = await examine(control.probe_session, target, Exam(probes))
    except TimeoutError as error:
        raise UnavailableError(
            "The replica did not answer all probes in time; try fewer, or again later.",
            code="probes_timed_out",
        ) from error
    return TrialAnswer.of(serving.replica_id, serving.version_number, results)
