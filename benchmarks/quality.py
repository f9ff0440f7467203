"""Scores on real images: trained from scratch in minutes by `segcore train` as it comes, beside a plain MONAI script.

    drive          vessels inside the field of view: Dice, 5 folds of 10 images
    dsb2018        nuclei: IoU, 5 folds of 58 images
    isbi           membranes: Dice, 16 sections train, 4 are held out
    camvid         street scenes: mean IoU of the classes that occur, the last frames of each sequence are held out
    dubai          land cover: mean IoU, each of three tiles held out once
    magnetic_tile  defects: IoU, one image of each kind is held out
    spleen, cord   volumes, by a 3-D U-Net: Dice, a part of the only scan is held out; without a peer

Ours and the peer (monai_unet.py) are trained at the same time, each on one core and one thread, from the same workspace
for the same minutes; of drive and dsb2018 the first fold is trained with two more seeds. Scores are of all held-out
pixels of a training together. Each finished training is a line of the results file, and is not run again: a table of
all of them is benchmarks/quality.md. Nothing is tuned to a data set. The images are those of SEGCORE_DATA.

    vs_peer        mean over the folds (seeds of one averaged) of ours - peer's
    image_difference, interval
                   mean over the held-out images of ours - peer's, and its 95 % interval by a bootstrap over them
    half           ours after half of the minutes - the peer after all of them (`--half`)

    python benchmarks/quality.py drive dsb2018 --half
    python benchmarks/quality.py --table > benchmarks/quality.md
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from quality_data import DATA, DATA_SETS

from segcore.scoring.counts import class_scores, foreground_rows, overall_scores
from segcore.store import Workspace, unseal

RESULTS = Path(__file__).with_name("quality.jsonl")
CACHE = Path(__file__).with_name(".cache") / "quality"
MORE_SEEDS = (1, 2)
RESAMPLES = 10_000


class Case(NamedTuple):
    """One training."""

    data: str
    fold: int
    seed: int
    who: str
    """ours or peer."""
    minutes: float


def cases(names: Sequence[str], minutes: float) -> Iterator[tuple[str, int, int]]:
    """Data set, fold and seed of each pair of trainings."""
    for name in names:
        for fold in range(DATA_SETS[name].folds):
            yield name, fold, 0
    for seed in MORE_SEEDS:
        yield from ((name, 0, seed) for name in names if DATA_SETS[name].folds == 5)


def segcore(
    *arguments: str, start: Sequence[str] = ("-m", "flows"), environ: dict[str, str] | None = None
) -> dict[str, Any]:
    """One command; its JSON."""
    call = [sys.executable, *start, *arguments, "--json"]
    done = subprocess.run(call, capture_output=True, text=True, env=environ)
    if done.returncode:
        sys.exit(f"segcore {' '.join(arguments)}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def ingested(name: str, fold: int, folder: Path) -> Workspace:
    """The workspace of one fold; made once."""
    data, place = DATA_SETS[name], folder / f"{name}-{fold}"
    place.mkdir(parents=True, exist_ok=True)
    rows = data.rows(fold, data.folds)
    with (place / "manifest.csv").open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    options = list(data.options)
    if "\n" in data.classes:
        (place / "classes.csv").write_text(data.classes, encoding="utf-8")
        options += ["--classes", str(place / "classes.csv")]
    elif data.classes:
        options += ["--classes", data.classes]
    segcore("ingest", "--manifest", str(place / "manifest.csv"), "--workspace", str(place / "workspace"), *options)
    return Workspace.open(str(place / "workspace"))


def on_core(core: int, act: Any, *arguments: Any) -> Any:
    """Call, with what it starts bound to one core (of those that this process has, where it can be bound)."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[core % len(cores)]})  # of this thread, and of the processes that it starts
    return act(*arguments)


def usual_cores() -> list[int | None]:
    """Two of the cores that this process has, or its only one; None is a core that nothing can be bound to."""
    return list(sorted(os.sched_getaffinity(0))[:2]) if hasattr(os, "sched_getaffinity") else [None, None]


def one_per_core(
    act: Callable[[str], object], names: Sequence[str], cores: Sequence[int | None]
) -> dict[str, BaseException | None]:
    """Call for each name, on each core for one at a time, with what that starts; how each of them failed, or None."""
    left = iter(cores)

    def bound() -> None:
        core = next(left)
        if core is not None:
            os.sched_setaffinity(0, {core})  # of this thread, and of the processes that it starts

    with ThreadPoolExecutor(len(cores), initializer=bound) as threads:
        futures = {name: threads.submit(act, name) for name in names}
        return {name: future.exception() for name, future in futures.items()}


def each_on_a_core(act: Callable[[str], Any], names: Sequence[str], cores: Sequence[int | None]) -> dict[str, Any]:
    """What a call for each name returned; as `one_per_core`, but the first that fails is raised."""
    found: dict[str, Any] = {}

    def kept(name: str) -> None:
        found[name] = act(name)

    for error in one_per_core(kept, names, cores).values():
        if error is not None:
            raise error
    return found


def train_ours(workspace: Workspace, case: Case) -> dict[str, Any]:
    """As a user does it: train, predict, score."""
    where = ("--workspace", workspace.uri)
    limits = (
        "--minutes",
        str(case.minutes),
        "--threads",
        "1",
        "--seed",
        str(case.seed),
        *DATA_SETS[case.data].training,
    )
    trained = segcore("train", *where, "--name", f"{case.data}-{case.minutes:g}-{case.seed}".replace(".", "_"), *limits)
    model = trained["details"]["model"]
    segcore("predict", *where, "--model", model, "--tile-workers", "1")
    scored = segcore("score", *where, "--model", model, "--split", "test")
    images = scored["scores"]["per_image"]
    return {
        "steps": trained["details"]["steps"],
        "confusion": {key: confusion_of(workspace, key, model) for key in images},
        "chosen": trained["details"].get("chosen", {}),
        "seconds": trained["seconds"],
    }


def confusion_of(workspace: Workspace, image_id: str, model: str) -> list[list[int]]:
    """What `segcore score` counted."""
    kept = workspace.objects.get(f"state/{image_id}/{model}/score.json")
    assert kept is not None, f"{image_id} was scored"
    found: list[list[int]] = unseal(kept)["counts"]["confusion"]
    return found


def train_peer(workspace: Workspace, case: Case) -> dict[str, Any]:
    script = str(Path(__file__).with_name("monai_unet.py"))
    call = [sys.executable, script, workspace.uri, str(case.minutes), str(case.seed)]
    done = subprocess.run(call, stdout=subprocess.PIPE, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def score_of(name: str, workspace_classes: Sequence[Any], confusion: np.ndarray[Any, Any]) -> float:
    """The data set's score of counts."""
    wanted = DATA_SETS[name].score
    if ":" in wanted:
        label, metric = wanted.split(":")
        number = [info.name for info in workspace_classes].index(label)
        value = class_scores(confusion)[number][metric]
    else:
        value = overall_scores(confusion, foreground_rows(workspace_classes))[wanted]
    return float("nan") if value is None else value


def run(case: Case, workspace: Workspace) -> dict[str, Any]:
    """One training, scored."""
    found = (train_ours if case.who == "ours" else train_peer)(workspace, case)
    first = next(iter(found["confusion"]))
    classes = workspace.label(first, "target").classes
    each = {key: np.asarray(value, np.int64) for key, value in found.pop("confusion").items()}
    score = score_of(case.data, classes, np.asarray(sum(each.values())))
    images = {key: score_of(case.data, classes, value) for key, value in each.items()}
    return {**case._asdict(), "code": code_version(), "score": score, "images": images, **found}


def code_version() -> str:
    """The commit, for the record."""
    call = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()


def run_all(wanted: Sequence[Case], results: Path, folder: Path) -> None:
    """The trainings that are not in the results yet, two at a time: ours and the peer of the same fold and seed."""
    done = {key_of(row) for row in read(results)}
    left = [case for case in wanted if tuple(case) not in done]
    pairs: dict[tuple[str, int, int, float], list[Case]] = {}
    for case in left:
        pairs.setdefault((case.data, case.fold, case.seed, case.minutes), []).append(case)
    for number, pair in enumerate(pairs.values()):
        workspace = ingested(pair[0].data, pair[0].fold, folder)
        with ThreadPoolExecutor(2) as threads:  # which of them has the first core alternates
            futures = [threads.submit(on_core, number + i, run, case, workspace) for i, case in enumerate(pair)]
            failed = []
            for future in as_completed(futures):
                if future.exception() is not None:  # what the other side took minutes for is kept
                    failed.append(future)
                    continue
                row = future.result()
                with results.open("a", encoding="utf-8") as opened:
                    opened.write(json.dumps(row) + "\n")
                print(f"{row['data']} fold {row['fold']} seed {row['seed']} {row['who']}: {row['score']:.4f}",
                      file=sys.stderr)  # fmt: skip
        for future in failed:
            future.result()


def read(results: Path) -> list[dict[str, Any]]:
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in Case._fields)


def compared(rows: Sequence[dict[str, Any]], name: str, minutes: float, ours_minutes: float) -> dict[str, Any]:
    """Ours against the peer over the trainings that both have."""

    def of(who: str, length: float) -> dict[tuple[int, int], dict[str, Any]]:
        chosen = (row for row in rows if (row["data"], row["who"], row["minutes"]) == (name, who, length))
        return {(row["fold"], row["seed"]): row for row in chosen}

    ours, peer = of("ours", ours_minutes), of("peer", minutes)
    both = sorted(ours.keys() & peer.keys())
    if not both:
        return {}
    of_image: dict[tuple[int, str], list[float]] = {}  # seeds of one fold are averaged: they saw the same images
    for fold, seed in both:
        for image, value in ours[fold, seed]["images"].items():
            of_image.setdefault((fold, image), []).append(value - peer[fold, seed]["images"][image])
    differences = np.asarray([value for value in map(statistics.fmean, of_image.values()) if np.isfinite(value)])
    picks = np.random.default_rng(0).integers(len(differences), size=(RESAMPLES, len(differences)))
    low, high = np.quantile(differences[picks].mean(axis=1), (0.025, 0.975))
    folds = sorted({fold for fold, _ in both})

    def mean(side: dict[tuple[int, int], dict[str, Any]]) -> float:
        return statistics.fmean(
            statistics.fmean(side[fold, seed]["score"] for fold, seed in both if fold == own) for own in folds
        )

    return {
        "trainings": len(both),
        "ours": mean(ours),
        "peer": mean(peer),
        "vs_peer": mean(ours) - mean(peer),
        "image_difference": float(differences.mean()),
        "interval": [float(low), float(high)],
    }


def summary(rows: Sequence[dict[str, Any]], minutes: float) -> dict[str, Any]:
    """By data set."""
    found: dict[str, Any] = {}
    for name, data in DATA_SETS.items():
        if not data.has_peer:
            alone = [row["score"] for row in rows if (row["data"], row["minutes"]) == (name, minutes)]
            found |= (
                {name: {"score": data.score, "trainings": len(alone), "ours": statistics.fmean(alone)}} if alone else {}
            )
            continue
        result = compared(rows, name, minutes, minutes)
        half = compared(rows, name, minutes, minutes / 2)
        if result:
            found[name] = {"score": data.score, **result} | ({"half": half["vs_peer"]} if half else {})
    return found


def table(rows: Sequence[dict[str, Any]], minutes: float) -> Iterator[str]:
    """quality.md."""
    yield "# Scores of trainings from scratch\n"
    yield f"Made by `python benchmarks/quality.py`, {minutes:g} minutes a training on one thread; what is compared, and"
    yield "how, the script's `--help` says. `difference` is ours less the peer's; the 95 % interval is that of the mean"
    yield "difference by held-out image, paired.\n"
    yield "| data | score | trainings | ours | MONAI script | difference | by image, 95 % | ours in half the time |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for name, found in summary(rows, minutes).items():
        if "peer" not in found:
            yield f"| {name} | {found['score']} | {found['trainings']} | {found['ours']:.3f} | | | | |"
            continue
        low, high = found["interval"]
        half = f"{found['half']:+.3f}" if "half" in found else ""
        yield (
            f"| {name} | {found['score']} | {found['trainings']} | {found['ours']:.3f} | {found['peer']:.3f} | "
            f"{found['vs_peer']:+.3f} | {found['image_difference']:+.3f} ({low:+.3f} to {high:+.3f}) | {half} |"
        )
    yield "\n## Every training\n"
    yield "| data | fold | seed | minutes | who | steps | score |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for row in sorted(rows, key=key_of):
        yield (
            f"| {row['data']} | {row['fold']} | {row['seed']} | {row['minutes']:g} | {row['who']} | {row['steps']} | "
            f"{row['score']:.4f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(DATA_SETS), help=f"data sets: {' '.join(DATA_SETS)}")
    parser.add_argument("--minutes", type=float, default=5.0, help="of each training")
    parser.add_argument("--half", action="store_true", help="ours once more with half of the minutes")
    parser.add_argument("--results", type=Path, default=RESULTS, help="a line for each finished training")
    parser.add_argument("--folder", type=Path, default=CACHE, help="of the workspaces, which are kept")
    parser.add_argument("--table", action="store_true", help="print quality.md from the results, train nothing")
    parser.add_argument("--quick", action="store_true", help="one fold of DRIVE for a few seconds: shows that it runs")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    if not DATA.is_dir():
        parser.error(f"no folder of real images at {DATA}; set SEGCORE_DATA")
    with tempfile.TemporaryDirectory(prefix="segcore-quality-") as temporary:
        results, folder, minutes = options.results, options.folder, options.minutes
        pairs = list(cases(options.names, minutes))
        if options.quick:
            results, folder, minutes, pairs = Path(temporary, "results"), Path(temporary), 0.2, [("drive", 0, 0)]
        if options.table:
            print("\n".join(table(read(results), minutes)))
            return
        sides = {name: ("ours", "peer") if data.has_peer else ("ours",) for name, data in DATA_SETS.items()}
        run_all([Case(*pair, who, minutes) for pair in pairs for who in sides[pair[0]]], results, folder)
        if options.half:
            run_all([Case(*pair, "ours", minutes / 2) for pair in pairs], results, folder)
        found = summary(read(results), minutes)
    if options.json:
        print(json.dumps(found))
        return
    for name, result in found.items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in result.items()))


if __name__ == "__main__":
    main()
