"""The examples for log shippers are YAML of the shape those read, and name the files that the docs name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

HERE = Path(__file__).parent.parent
EXAMPLES = HERE / "monitoring" / "logs"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FileSource(Strict):
    """vector.dev, reference, sources, file."""

    type: Literal["file"]
    include: list[str] = Field(min_length=1)
    rotate_wait_secs: int | None = None


class Remap(Strict):
    type: Literal["remap"]
    inputs: list[str] = Field(min_length=1)
    source: str


class Encoding(Strict):
    codec: Literal["json", "text"]


class LokiSink(Strict):
    type: Literal["loki"]
    inputs: list[str] = Field(min_length=1)
    endpoint: str = Field(pattern="^https?://")
    encoding: Encoding
    labels: dict[str, str]


class S3Sink(Strict):
    type: Literal["aws_s3"]
    inputs: list[str] = Field(min_length=1)
    bucket: str
    region: str
    key_prefix: str
    compression: Literal["gzip", "none"]
    encoding: Encoding


class Vector(Strict):
    data_dir: str
    sources: dict[str, FileSource]
    transforms: dict[str, Remap]
    sinks: dict[str, LokiSink | S3Sink]


class Parser(Strict):
    """docs.fluentbit.io, data pipeline, parsers."""

    name: str
    format: Literal["json"]
    time_key: str
    time_format: str
    time_keep: bool


class Tail(Strict):
    name: Literal["tail"]
    tag: str
    path: str
    db: str
    parser: str | None = None
    key: str | None = None
    rotate_wait: int | None = None


class LokiOutput(Strict):
    name: Literal["loki"]
    match_regex: str
    host: str
    port: int
    labels: str


class S3Output(Strict):
    name: Literal["s3"]
    match: str
    bucket: str
    region: str
    log_key: str
    s3_key_format: str


class Pipeline(Strict):
    inputs: list[Tail]
    outputs: list[LokiOutput | S3Output]


class FluentBit(Strict):
    parsers: list[Parser]
    pipeline: Pipeline


def read(name: str) -> Any:
    return yaml.safe_load((EXAMPLES / name).read_text())


def test_vectors_example_is_of_its_shape_and_every_input_is_there() -> None:
    vector = Vector.model_validate(read("vector.yaml"))
    made = vector.sources.keys() | vector.transforms.keys()
    used = {name for each in (*vector.transforms.values(), *vector.sinks.values()) for name in each.inputs}
    assert used == made


def test_fluent_bits_example_is_of_its_shape_and_every_line_goes_somewhere() -> None:
    fluent = FluentBit.model_validate(read("fluent-bit.yaml"))
    parsers = {parser.name for parser in fluent.parsers}
    assert {tail.parser for tail in fluent.pipeline.inputs} <= parsers | {None}
    assert [tail.tag for tail in fluent.pipeline.inputs] == ["access", "application", "audit"]


def test_both_read_the_same_files_and_leave_the_audit_logs_lines_as_they_are() -> None:
    vector = Vector.model_validate(read("vector.yaml"))
    fluent = FluentBit.model_validate(read("fluent-bit.yaml"))
    paths = [path for source in vector.sources.values() for path in source.include]
    assert paths == [tail.path for tail in fluent.pipeline.inputs]
    assert [sink.inputs for sink in vector.sinks.values() if isinstance(sink, S3Sink)] == [["audit"]]
    settings = (HERE / "mlflow.env.example").read_text()
    for path in paths[:2]:
        assert path in settings
