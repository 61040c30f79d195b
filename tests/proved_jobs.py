"""Small finished jobs of every kind, in folders, made in this process: what verify and gc are tried on."""

from pathlib import Path

import numpy as np
from PIL import Image

from producer.prepare import JobRequest, prepare_job
from producer.recipes import Wishes
from producer.retry import plan_retry
from schemas.contents import text_content
from schemas.failures import Failure, FailureCode, Stage
from schemas.recipe import OutputType
from schemas.rows import ManifestRow
from storage.jobs import Job
from tests.inline import InlineMill
from tests.mill import write_jsonl
from workers.content import Sound
from workers.loading import IsKnown, Loaded, Segment, Segments, nothing_known

GONE = Failure(code=FailureCode.NOT_FOUND, stage=Stage.FETCH, message="no such file")


def picture(number: int) -> Loaded:
    return Loaded(image=Image.new("RGB", (4, 4), (number, 0, 0)))


class Sounds:
    """A loader that gives each row as many segments of a second as its id's last digit says."""

    def load(self, row: ManifestRow, is_known: IsKnown = nothing_known) -> Segments | Failure:
        samples = np.full(8, int(row.id[-1]), np.float32)
        sound = Sound(samples=samples, rate=8, seconds_in=1.0)
        text = "said beside it" if row.parts else None
        if is_known(row.id, content := text_content(row.id)):
            return (Segment(inputs=(), content=content),)
        return tuple(
            Segment(
                inputs=(Loaded(sound=sound, text=text),),
                start_s=float(n),
                end_s=n + 1.0,
                usage={"seconds_in": 9},
                content=content,
            )
            for n in range(int(row.id[-1]))
        )

    def close(self) -> None: ...


def planned(folder: Path, rows: list[dict[str, object]], wishes: Wishes | None = None, **more: object) -> Job:
    """A job of the model `hash` with some shards, in `folder`/out."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = write_jsonl(folder / "rows.jsonl", rows)
    words = {"shard_seconds": 0.02, **more}
    request = JobRequest(
        manifest=str(manifest),
        model="hash",
        out=str(folder / "out"),
        wishes=wishes or Wishes(),
        **words,  # type: ignore[arg-type]  # what the tests pass is right
    )
    return prepare_job(request)


def text_job(folder: Path) -> Job:
    """Texts with failures, rejects and kept columns of every type; planned, not embedded."""
    rows: list[dict[str, object]] = [
        {"id": f"t{n:03d}", "text": f"text number {n} " * 3, "label": f"l{n % 3}", "weight": n / 3, "seen": n % 2 == 0}
        for n in range(48)
    ]
    rows[5]["text"], rows[40]["text"] = " ", "a\0b"
    rejects: list[dict[str, object]] = [{"id": "t001", "text": "again"}, {"text": "without an id"}]
    return planned(folder, rows + rejects, keep=("label", "weight:float64", "seen:bool"))


def int8_job(folder: Path) -> Job:
    rows: list[dict[str, object]] = [{"id": f"q{n:03d}", "text": f"quantised {n}"} for n in range(30)]
    return planned(folder, rows, Wishes(outputs=(OutputType.INT8, OutputType.FLOAT16)))


def segmented_job(folder: Path) -> Job:
    rows: list[dict[str, object]] = [{"id": f"s{n:02d}", "uri": f"{n}.wav"} for n in range(1, 9)]
    rows += [{"id": f"m{n:02d}", "parts": [{"text": "said"}, {"uri": f"{n}.wav"}]} for n in range(1, 4)]
    return planned(folder, rows, Wishes(segment_s=1.0))


def image_job(folder: Path) -> Job:
    return planned(folder, [{"id": f"i{n:03d}", "uri": f"{n}.png"} for n in range(12)])


def retried(job: Job) -> Job:
    """Run an image_job of which half is gone, then a retry that finds all but one."""
    InlineMill(job, {f"i{n:03d}": picture(n) for n in range(6)}).run()
    plan_retry(job)
    InlineMill(job, {f"i{n:03d}": picture(n) for n in range(11)}).run()
    return job


def finished_jobs(folder: Path) -> list[Job]:
    """One finished job of each kind."""
    text, int8, segmented = text_job(folder / "text"), int8_job(folder / "int8"), segmented_job(folder / "segmented")
    InlineMill(text).run()
    InlineMill(int8).run()
    InlineMill(segmented, loader=Sounds()).run()
    return [text, int8, segmented, retried(image_job(folder / "retried"))]


def files_of(job: Job) -> list[Path]:
    """Every file of the job, but for what users last said (control/)."""
    folder = Path(job.store.url)
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.parent.name not in ("control", "_tmp"))
