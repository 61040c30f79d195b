"""The crew: the settings of each worker of a machine, and the queues that they serve."""

from dataclasses import replace

from schemas.errors import Refused
from schemas.job import JobSpec
from schemas.model_cards import Kind
from schemas.queues import JOIN_TASK, queue_name, queue_of
from schemas.rows import Modality
from schemas.settings import Settings
from schemas.sizes import CPU, GIB, SIZES, up_to
from workers.devices import Device
from workers.supervise import usable_cores


def crew_settings(
    settings: Settings,
    *,
    broker_url: str,
    roots: tuple[str, ...],
    devices: list[Device],
    count: int = 0,
    modalities: tuple[Modality, ...] = (),
    queues: tuple[str, ...] = (),
) -> list[Settings]:
    """One worker for each GPU; on the processor `count` of them (0: one for each usable core).

    `modalities` and `queues` narrow what they serve. Raises Refused for a queue that none of the devices can serve.
    """
    crew = []
    for device in devices:
        here = (count or usable_cores()) if device.name == CPU else max(1, count // len(devices))
        served = _served(device.size, modalities, queues)
        if not served:
            asked, able = ", ".join(queues), ", ".join(up_to(device.size))
            raise Refused(f"--queues {asked}: {device.name} can serve the sizes {able}; name queues of these")
        told = replace(
            settings,
            broker_url=broker_url,
            roots=roots,
            device=device.name,
            size=device.size,
            memory_mb=settings.memory_mb or device.model_mb(here),
            queues=served,
        )
        crew += [told] * here
    return crew


def require_served(spec: JobSpec, crew: list[Settings]) -> None:
    """Raise Refused unless some worker's device is large enough for the job."""
    if any(spec.size in up_to(worker.size) for worker in crew):
        return
    here = max((worker.size for worker in crew), key=SIZES.index)
    raise Refused(
        f"model {spec.model} needs a GPU of {GIB[spec.size]} GiB or more ({spec.size}), and this machine has {here}; "
        f"--size {here} tries it all the same, `submit` sends it to workers elsewhere"
    )


def _served(size: str, modalities: tuple[Modality, ...], queues: tuple[str, ...]) -> tuple[str, ...]:
    taken = modalities or tuple(Modality)
    able = tuple(queue_name(modality, s, kind) for s in up_to(size) for kind in Kind for modality in taken)
    if not modalities:
        able += tuple(queue_of(JOIN_TASK, s) for s in up_to(size))
    return tuple(queue for queue in able if queue in queues) if queues else able
