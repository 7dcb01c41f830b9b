"""What people and programs do with MLflow: visits, trainings, sweeps, scripts; each by its requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from review_world import At, World

MEGABYTE = 1_000_000
FILES = (
    "model.pkl",
    "MLmodel",
    "conda.yaml",
    "plots/loss.png",
    "plots/roc.png",
    "metrics.csv",
    "requirements.txt",
)
STATIC = ("main.js", "vendor.js", "main.css", "logo.svg", "chunk-1.js")


def visit(world: World, at: float, source: At, experiments: Sequence[str], pages: int) -> float:
    """Somebody looks at experiments and runs in the browser; when they have done."""
    chance = world.random
    if chance.random() < 0.5:
        world.ask(at, source, "GET", "/", sent=2400)
        for name in STATIC:
            at = world.ask(
                at, source, "GET", f"/static-files/static/{name}", sent=chance.choice((0, 180_000))
            )
    at = world.ask(at, source, "POST", "/ajax-api/2.0/mlflow/experiments/search")
    for _ in range(pages):
        at += chance.expovariate(1 / 40) + 1
        experiment, run = chance.choice(experiments), world.hex()
        world.ask(at, source, "GET", "/ajax-api/2.0/mlflow/experiments/get", f"experiment_id={experiment}")
        at = world.ask(at, source, "POST", "/ajax-api/2.0/mlflow/runs/search")
        if chance.random() < 0.6:
            at += chance.expovariate(1 / 15)
            world.ask(at, source, "GET", "/ajax-api/2.0/mlflow/runs/get", f"run_id={run}")
            world.ask(at, source, "POST", "/graphql")
            query = f"run_ids={run}&metric_key=loss"
            at = world.ask(at, source, "GET", "/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval", query)
        if chance.random() < 0.25:
            at = world.ask(at, source, "GET", "/ajax-api/2.0/mlflow/artifacts/list", f"run_id={run}")
            query = f"path=plots/loss.png&run_uuid={run}"
            at = world.ask(at, source, "GET", "/get-artifact", query, sent=90_000)
    return at


def train(world: World, at: float, source: At, experiment: str, steps: int, pause: float = 20) -> float:
    """A run is logged, with its metrics and some files."""
    chance = world.random
    run = world.hex()
    at = world.ask(at, source, "GET", "/api/2.0/mlflow/experiments/get-by-name")
    at = world.ask(at, source, "POST", "/api/2.0/mlflow/runs/create", taken=400)
    at = world.ask(at, source, "POST", "/api/2.0/mlflow/runs/log-batch", taken=2400)
    for _ in range(steps):
        at = world.ask(at + chance.expovariate(1 / pause), source, "POST", "/api/2.0/mlflow/runs/log-batch")
    for name in chance.sample(FILES, 2):
        path = f"/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts/{name}"
        size = chance.randrange(2_000, 40 * MEGABYTE)
        at = world.ask(at, source, "PUT", path, taken=size, sent=2, seconds=size / (20 * MEGABYTE))
    return world.ask(at, source, "POST", "/api/2.0/mlflow/runs/update", taken=120)


def sweep(world: World, at: float, node: Callable[[], At], experiment: str, runs: int, beside: int) -> float:
    """Many runs on many machines, `beside` of them at once; a machine does one after the other."""
    chance, last = world.random, at
    for _ in range(beside):
        source, mine = node(), at + chance.uniform(0, 90)
        for _ in range(-(-runs // beside)):
            mine = train(world, mine + chance.uniform(1, 60), source, experiment, chance.randrange(3, 8), 60)
            if chance.random() < 0.1:
                source = node()  # taken away, and another one given: a spot instance
        last = max(last, mine)
    return last


def script(world: World, at: float, source: At, experiments: Sequence[str], runs: int) -> float:
    """A notebook reads runs and a few of their files."""
    chance = world.random
    at = world.ask(at, source, "GET", "/api/2.0/mlflow/experiments/get-by-name")
    at = world.ask(at, source, "POST", "/api/2.0/mlflow/runs/search", sent=80_000)
    for _ in range(runs):
        run, experiment = world.hex(), chance.choice(experiments)
        at = world.ask(at + chance.uniform(0, 2), source, "GET", "/api/2.0/mlflow/runs/get", f"run_id={run}")
        if chance.random() < 0.4:
            at = download(world, at, source, experiment, run, chance.randrange(2_000, 30 * MEGABYTE))
    return at


def download(world: World, at: float, source: At, experiment: str, run: str, size: int) -> float:
    name = world.random.choice(FILES)
    path = f"/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts/{name}"
    return world.ask(at, source, "GET", path, sent=size, seconds=size / (30 * MEGABYTE))


def delete_runs(world: World, at: float, source: At, number: int, pause: float = 1.5) -> float:
    for _ in range(number):
        at += world.random.expovariate(1 / pause)
        at = world.ask(at, source, "POST", "/api/2.0/mlflow/runs/delete", taken=50, sent=2)
    return at


def look_through(world: World, at: float, source: At, experiments: Sequence[str], pause: float) -> float:
    """One experiment after the other is read."""
    for experiment in experiments:
        at += world.random.expovariate(1 / pause)
        query = f"experiment_id={experiment}"
        at = world.ask(at, source, "GET", "/api/2.0/mlflow/experiments/get", query)
        at = world.ask(at, source, "POST", "/api/2.0/mlflow/runs/search", sent=60_000)
    return at


def not_let_in(
    world: World,
    at: float,
    source: At,
    number: int,
    pause: float,
    path: str = "/api/2.0/mlflow/experiments/search",
) -> float:
    """Requests without a credential, or with one that is over; of wrong passwords, see `guess`."""
    nobody = At(None, source.client, source.agent)
    for _ in range(number):
        at += pause * world.random.uniform(0.8, 1.2)
        world.ask(at, nobody, "POST", path, status=401, refusal="unauthenticated", sent=180)
    return at


def guess(world: World, at: float, source: At, number: int, pause: float) -> float:
    """Wrong passwords: after ten in five minutes none is checked from there (login_limits.py)."""
    nobody, lately = At(None, source.client, source.agent), [float("-inf")] * 10
    for _ in range(number):
        at += world.random.expovariate(1 / pause)
        stopped = at - lately[-10] < 300
        if not stopped:
            lately.append(at)
        status, refusal = (429, "locked_out") if stopped else (401, "unauthenticated")
        path = "/api/2.0/mlflow/experiments/search"
        world.ask(at, nobody, "POST", path, status=status, refusal=refusal, sent=180)
    return at


def try_forbidden(
    world: World, at: float, source: At, asks: Sequence[tuple[str, str]], pause: float
) -> float:
    for method, path in asks:
        at += world.random.expovariate(1 / pause)
        world.ask(at, source, method, path, status=403, refusal="forbidden", sent=300)
    return at
