"""`embedmill bench`: how fast a model is on this machine's device, for the estimates of `plan`."""

from typing import TYPE_CHECKING, Annotated

import typer

from producer.job_options import AllowUnpinned, Dtype, FirstDevice, Model

if TYPE_CHECKING:
    from schemas.settings import Settings
    from workers.devices import Device
    from workers.rate_bench import Measured


def bench(
    model: Model,
    device: FirstDevice = "auto",
    dtype: Dtype = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.01, help="For each kind and length of items, about so long.")
    ] = 2.0,
    allow_unpinned: AllowUnpinned = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, for scripts.")] = False,
) -> None:
    """Measure a model on this machine's device, by the kind and length of items, and remember it for `plan`.

    \b
    embedmill bench --model minilm

    One worker's rate: a machine of many cores has as many workers. On a GPU it finds out how large
    batches should be, too. Both are remembered below the user's cache folder; EMBEDMILL_MEMORY_DIR names another.
    """
    import json
    import os
    import sys
    from dataclasses import asdict, replace

    from schemas.settings import Settings
    from storage.rates_file import RatesFile
    from workers.devices import find_devices

    here = find_devices(device)[0]
    settings = replace(
        Settings.from_environ(os.environ), device=here.name, size=here.size, memory_mb=here.model_mb(_workers_on(here))
    )
    found, told = _measure(model, dtype.value if dtype else "", settings, seconds, allow_unpinned=allow_unpinned)
    if as_json:
        print(json.dumps(told | {"classes": [asdict(measured) for measured in found]}))
    else:
        print(f"{told['model']} on {told['device']} ({told['dtype']}), batches of {told['batch_tokens']} tokens")
        print("\n".join(map(_line, found)))
    print(f"remembered in {RatesFile(settings.memory_dir).path}", file=sys.stderr)


def _measure(
    name: str, dtype: str, settings: "Settings", seconds: float, *, allow_unpinned: bool
) -> "tuple[list[Measured], dict[str, object]]":
    """What was measured, and on what; remembered."""
    from itertools import groupby

    from producer.costs import row_cost
    from producer.recipes import Wishes, recipe_for
    from schemas.rates import Rates, Source
    from schemas.rows import ManifestRow, Modality
    from storage.jobs import now
    from storage.model_files import resolve_model
    from storage.rates_file import RatesFile
    from workers.rate_bench import decode_seconds, measure_rates, open_bench

    model = resolve_model(name, allow_unpinned=allow_unpinned, cache=settings.model_cache)
    recipe = recipe_for(model.card, Wishes(dtype=dtype, size=settings.size))

    def cost_of(modality: Modality, text: str) -> float:
        is_text = modality is Modality.TEXT
        row = ManifestRow(
            id="", line=1, modality=modality, text=text if is_text else None, uri=None if is_text else "x"
        )
        return row_cost(row, model.card, recipe)

    opened = open_bench(model, recipe, settings)
    found = list(measure_rates(opened, recipe, cost_of, seconds=seconds))
    points = {
        modality: tuple(sorted(m.point for m in measured))
        for modality, measured in groupby(found, lambda m: m.modality)
    }
    device = f"{settings.device} ({settings.size})"
    rates = Rates(source=Source.BENCH, points=points, load_s=opened.load_s, device=device, at=now())
    RatesFile(settings.memory_dir).put(model.card.digest, settings.size, recipe.dtype, rates)
    told = {"model": model.card.name, "device": device, "dtype": recipe.dtype, "load_s": opened.load_s}
    decode_s = decode_seconds(settings) if Modality.IMAGE in model.card.modalities else None
    return found, told | {"batch_tokens": opened.budget.tokens, "decode_s_of_a_1280x960_jpeg": decode_s}


def _workers_on(device: "Device") -> int:
    from workers.supervise import usable_cores

    return usable_cores() if device.size == "cpu" else 1


def _line(measured: "Measured") -> str:
    rate, tokens = 1 / measured.seconds, measured.tokens / measured.seconds
    return f"  {measured.what:26} {rate:10,.1f} a second {tokens:12,.0f} tokens a second"
