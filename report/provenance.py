"""Provenance: what made the vectors, by name and digest."""

from report.html import Html, command, tag
from report.job_facts import JobFacts
from report.page import Section
from schemas.redaction import redact


def provenance(facts: JobFacts) -> Section:
    """Space, model, versions and digests of a job."""
    record, status = facts.job.record, facts.status
    spec, space = record.spec, record.space
    versions: dict[str, set[str]] = {}
    for footer in facts.footers:
        for name, version in footer.versions.items():
            versions.setdefault(name, set()).add(version)
    shown_fields = {name: value for name, value in space.fields().items() if value not in (None, "", 0, 0.0, False)}
    rows = [
        ("job", record.id),
        ("made", record.created_at),
        ("model", redact(spec.model)),
        ("model's files, sha256", spec.model_digest),
        ("space", space.digest),
        (
            "space's fields",
            ", ".join(f"{name}={_value(value)}" for name, value in shown_fields.items() if name != "model_digest"),
        ),
        ("manifest", redact(spec.manifest)),
        ("manifest, sha256", spec.manifest_sha256),
        ("plan, sha256", record.plan.digest),
        ("devices", ", ".join(sorted({f.device for f in facts.footers if f.device}))),
        ("written by", ", ".join(f"{name} {' and '.join(sorted(found))}" for name, found in sorted(versions.items()))),
        ("notes", "; ".join(sorted({note for f in facts.footers for note in f.notes}))),
        ("output", redact(status.location)),
    ]
    proof = tag("p", "Every row and every bit can be proved: ", tag("code", command("verify", status.location)))
    return Section(name="provenance", title="Provenance", body=tag("div", facts_table(rows), proof))


def facts_table(rows: list[tuple[str, str]]) -> Html:
    """Names and values; those without a value are left out."""
    told = [tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in rows if value]
    return tag("table", tag("tbody", told), class_="facts")


def _value(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
