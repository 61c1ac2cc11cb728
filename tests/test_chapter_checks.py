"""The checks on a reader's own answer: each names the mistake that was made."""

import ast
from pathlib import Path

import numpy as np
import pytest

import sartutorial as st
from sartutorial import cli

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
FACTS = {
    "facts": {
        "encoder": {"IoU": 0.62, "recall": 0.9, "accuracy": 0.81, "training": 0.7, "mean": 0.35},
        "statistics": {
            "IoU": 0.33, "recall": 0.5, "accuracy": 0.74, "training": 0.41, "mean": 0.2,
        },
    },
    "few_labels": {"all": 0.31, "patches": 0.22, "tokens": 0.29, "tenth": 0.26},
    "late": {
        "share": 0.06, "encoder": 0.62, "statistics": 0.33, "first": 0.01, "last": 0.4,
        "fine-tuned": 0.6, "u-net": 0.84, "epochs": 12,
        "rarer": "Rarer classes (wetland) are learnt all the same, with more steps.",
    },
}  # fmt: skip


def checks_of(chapter, facts):
    """The functions ``check...`` of a chapter, with facts of our own."""
    (path,) = NOTEBOOKS.glob(f"{chapter}_*.py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name[:5] == "check"]
    space = {"np": np, "st": st, **facts}
    exec(compile(ast.Module(found, []), path.name, "exec"), space)
    return space


@pytest.fixture(scope="module")
def checks():
    return checks_of("07", FACTS)


@pytest.fixture(scope="module")
def evaluation_checks():
    """Of chapter 08."""
    lead = {"right": (0.04, 0.08), "turned": (-0.08, -0.04), "apart": (0.0, 0.12)}
    return checks_of("08", {
        "lead_of": lead | {"one seed": (0.03, 0.07), "long": (0.09, 0.13)},
        "enough": {"have": 27, "ratio": 50.0},
        "ranks": {"right": 0.05, "deviation": 0.015, "pieces": 0.11},
    })  # fmt: skip


@pytest.mark.parametrize(
    ("check", "answer", "said"),
    [
        ("check_lead", (0.04, 0.08), "Right"),
        ("check_lead", (-0.08, -0.04), "U-Net's lead"),
        ("check_lead", (0.0, 0.12), "ends of two intervals"),
        ("check_lead", (0.03, 0.07), "one seed"),
        ("check_lead", (0.09, 0.13), "of 175 seconds"),
        ("check_lead", (0.2, 0.3), "None that we know"),
        ("check_blocks", (67_500,), "Right"),
        ("check_blocks", (1350,), "with the root"),
        ("check_blocks", (270_000,), "half of the interval already"),
        ("check_blocks", (2500,), "how many blocks"),
        ("check_blocks", (5,), "No."),
        ("check_ranks", (0.05,), "Right"),
        ("check_ranks", (0.015,), "standard deviation"),
        ("check_ranks", (0.11,), "in a row"),
        ("check_ranks", (0.3,), "No."),
    ],
)
def test_evaluation(evaluation_checks, capsys, check, answer, said):
    evaluation_checks[check](*answer)
    assert said in capsys.readouterr().out


@pytest.fixture(scope="module")
def weight_checks():
    """Of chapter 08b."""
    return checks_of("08b", {
        "single": {"floor": 4.2, "mean": 4.3, "power": 4.6, "deviation": 5.6, "halved": 2.6},
        "spread": {"variance": 10.0, "patch": 32.0},
        "tag": {"shift": -3.0, "refused": False},
    })  # fmt: skip


@pytest.mark.parametrize(
    ("check", "answer", "said"),
    [
        ("check_floor", (4.2,), "Right"),
        ("check_floor", (4.3,), "mean of the decibels"),
        ("check_floor", (4.6,), "mean power"),
        ("check_floor", (5.6,), "standard deviation"),
        ("check_floor", (2.6,), "after halving"),
        ("check_floor", (1.0,), "No."),
        ("check_variance", (10.0,), "Right"),
        ("check_variance", (20.0,), "halve it"),
        ("check_variance", (10**0.5,), "Square it"),
        ("check_variance", (20**0.5,), "deviation of the difference"),
        ("check_variance", (32.0,), "land and speckle together"),
        ("check_variance", (1.0,), "No."),
        ("check_tag", (-3.0, True), "what predict says"),
        ("check_tag", (-3.0, False), "Right"),
        ("check_tag", (3.0, False), "The sign"),
        ("check_tag", (-6.0, False), "not doubled"),
        ("check_tag", (40.0, False), "No."),
    ],
)
def test_weight(weight_checks, capsys, check, answer, said):
    weight_checks[check](*answer)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("encoder", "statistics", "said"),
    [
        (0.62, 0.33, "Right"),
        (0.60, 0.35, "Right"),
        (0.33, 0.62, "swapped"),
        (0.81, 0.33, "encoder: That is the share of all tokens"),
        (0.62, 0.74, "statistics: That is the share of all tokens"),
        (0.9, 0.33, "how many towns are found"),
        (0.7, 0.33, "on the patches that the layer was fitted on"),
        (0.35, 0.33, "the mean over classes"),
        (0.1, 0.05, "Neither"),
    ],
)
def test_towns(checks, capsys, encoder, statistics, said):
    checks["check_towns"](encoder=encoder, statistics=statistics)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("miou", "said"),
    [
        (0.22, "Right"),
        (0.29, "draw patches"),
        (0.31, "with all labels"),
        (0.26, "with a tenth"),
        (0.09, "What is left"),
        (0.5, "No."),
    ],
)
def test_labels(checks, capsys, miou, said):
    checks["check_labels"](miou)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("few", "6.0% of the training pixels. Rarer classes"),
        ("radar", "finds them with IoU 0.62; on mean and deviation alone with 0.33"),
        ("steps", "gets to 0.84 in 12 epochs"),
        ("speckle", "Answer with one of"),
    ],
)
def test_late(checks, capsys, reason, said):
    checks["check_late"](reason)
    assert said in capsys.readouterr().out


# Of chapters 01 to 06, 09 and 10: facts, and answers as a reader would get them, right and by mistake.
EDGES = np.arange(-28, -10, 0.5)
WEIGHTS = np.array([0.114, 0.108, 0.107, 0.113, 0.068, 0.122, 0.124, 0.120, 0.124])
OF = {
    "01": {
        "looks": {
            **{"power": 5.5, "amplitude": 20.0, "decibels": 90.0, "before": 2.0},
            "mean amplitude": 5.1,
        },
        "edges": EDGES,
        "best_edge": -18.0,
        "values": np.array([-22.5, -22.5, -8.0]),
        "water": np.array([True, True, False]),
    },
    "02": {
        "facts": {"looks": (2.1, 5.7), "of amplitude": 3.1},
        "apart": {"rms": 1, "average": 900, "nearest": 9000},
        "wrapped": 65535,
    },
    "03": {
        "facts": {
            "lost": 0.25,
            "of all pixels": 0.21,
            "shifted": {
                **{"diagonal": 0.06, "with void": 0.05, "one axis": 0.04, "ids": 0.3},
                "merged": 0.03,
            },
        },
        "pixels": np.arange(16) * 10,
    },
    "04": {
        "facts": {
            **{"small": 1024, "large": 240, "size": 128, "valid": 4_400_000, "pixels": 5_300_000},
            **{"half": 0.026, "half of variance": 0.009, "of spread": 0.09, "here": 0.17},
            "void": np.array([0, 0.001, 0.25, 0.5, 0.75, 0.9, 1]),
        },
        "follows": {"first": (-0.99, 0.02), "second": (-0.02, 0.99)},
    },
    "05": {
        "facts": {
            **{"exponent": 1.2, "spread": 7.4},
            "again": {"right": 0.48, "of all": 0.03, "certain": 0.2},
            "leads": [0.03, -0.09, -0.1, -0.07],
        },
        "theirs": WEIGHTS,
    },
    "06": {
        "facts": {
            **{"network": 4.2, "Gaussian": 3.6, "std": 6.4, "all pixels": 3.9, "at 60 %": 3.0},
            **{"pull": 0.125, "loss": 0.17},
            **{"apart": 0.0, "together": 0.4, "all tokens": 0.7},
        },
        "guessed": {"plain": -0.31, "mean of dB": -0.4, "normalised": -0.53, "linear": -0.48},
    },
    "09": {
        "facts": {
            **{"left": 900, "before": 4000, "joined": 3, "unmasked": 910, "corners": 850},
            **{"least": 60, "share": 84.0, "alone": 90},
            **{"map": 5.3, "truth": 4.5, "each": 100, "percent": 0.6},
        }
    },
    "10": {
        "facts": {"map": 30.0, "rate": 14.0, "scale": 0.7, "halved": 0.8, "not halved": 0.6},
        "cli": cli,
    },
}


@pytest.mark.parametrize(
    ("chapter", "name", "answer", "said"),
    [
        ("01", "looks", 5.5, "Right"),
        ("01", "looks", 8, "four times"),
        ("01", "looks", 2.0, "as it was"),
        ("01", "looks", 20, "amplitudes"),
        ("01", "looks", 5.1, "You averaged amplitudes"),
        ("01", "looks", 90, "decibels"),
        ("01", "looks", 1 / 5.5, "turn it round"),
        ("01", "looks", 50, "none of the usual"),
        ("01", "threshold", -18, "Right"),
        ("01", "threshold", 10**-1.8, "in power"),
        ("01", "threshold", -22.5, "mean level of water"),
        ("01", "threshold", -15.25, "halfway"),
        ("01", "threshold", EDGES[-1], "most of the land"),
        ("02", "limit", 20 * np.log10(np.sqrt(np.pi) / 2), "Right"),
        ("02", "limit", 10 * np.log10(np.sqrt(np.pi) / 2), "squared"),
        ("02", "limit", 1.05, "Low, not high"),
        ("02", "limit", -2.51, "averaged decibels"),
        ("02", "limit", 0, "averaged power"),
        ("02", "limit", -0.76, "blocks of 2 x 2"),
        ("02", "limit", -0.93, "blocks of 3 x 3"),
        ("02", "looks", 2.7, "Right"),
        ("02", "looks", 4, "independent"),
        ("02", "looks", 5.7, "divide"),
        ("02", "looks", 0.37, "turn it round"),
        ("02", "looks", 3.1, "amplitudes"),
        ("02", "gdal", 1, "Right"),
        ("02", "gdal", 65535, "int first"),
        ("02", "gdal", 900, "`average`"),
        ("02", "gdal", 9000, "name the resampling"),
        ("03", "lost", 0.25, "Right"),
        ("03", "lost", 25, "percent"),
        ("03", "lost", 0.21, "share of all pixels"),
        ("03", "lost", 0.75, "left"),
        ("03", "shift", 0.06, "Right"),
        ("03", "shift", 0.05, "void"),
        ("03", "shift", 0.04, "one axis"),
        ("03", "shift", 0.3, "ids are names"),
        ("03", "shift", 0.94, "kept its class"),
        ("03", "shift", 6, "percent"),
        ("03", "shift", 0.03, "merged"),
        ("03", "forests", (130, 280), "Right"),
        ("03", "forests", (280, 130), "swapped"),
        ("03", "forests", (130, 170), "missing"),
        ("03", "forests", (240, 170), "Bamboo (11) is evergreen"),
        ("03", "forests", (140, 160), "broad leaves from needles"),
        ("03", "forests", (1, 2), "No: ids 6 and 7"),
        ("04", "cover", 1024 * 64**2 / 4_400_000, "Right"),
        ("04", "cover", 1024 * 128**2 / 4_400_000, "old side"),
        ("04", "cover", 240 * 128**2 / 4_400_000, "large patches"),
        ("04", "cover", 1024 * 64**2 / 5_300_000, "all pixels"),
        ("04", "cover", 102400 * 64**2 / 4_400_000, "percent"),
        ("04", "void", 4, "Right"),
        ("04", "void", 3, "*more* than half"),
        ("04", "void", 1, "no void at all. (n_void counts pixels"),
        ("04", "void", 7, "all patches"),
        ("04", "void", 2, "divided by the side"),
        ("04", "offset", "first", "Right"),
        ("04", "offset", "second", "it is the column"),
        ("04", "offset", "row", "Answer with"),
        ("04", "forgotten", 0.026, "Right"),
        ("04", "forgotten", 2.6, "percent"),
        ("04", "forgotten", 0.009, "halves the variance"),
        ("04", "forgotten", 0.09, "the mean moves"),
        ("04", "forgotten", 0.17, "in these scenes"),
        ("04", "forgotten", 0.5, "none of the usual"),
        ("05", "exponent", 1.2, "Right"),
        ("05", "exponent", 1, "five ids become forest"),
        ("05", "exponent", 0, "follow the land"),
        ("05", "exponent", 2, "applied twice"),
        ("05", "exponent", 7.4, "which k"),
        ("05", "again", 0.48, "Right"),
        ("05", "again", 0.03, "share of all points"),
        ("05", "again", 0.52, "of their own"),
        ("05", "again", 0.2, "chance adds more"),
        ("05", "buffer", 1, "Right"),
        ("05", "buffer", 0, "still scores more"),
        ("05", "buffer", 3, "not the narrowest"),
        ("05", "buffer", 640, "no metres"),
        ("05", "share", 1 - 8 * 0.068, "Right"),
        ("05", "share", 8 * 0.068, "1 - p"),
        ("05", "share", 1 - 9 * 0.068, "divide by 8"),
        ("05", "share", (1 / 0.068) / (1 / WEIGHTS).sum(), "1/p"),
        ("05", "share", 0.068, "the weight itself"),
        ("06", "hidden", 4.2, "Right"),
        ("06", "hidden", 4.2 / 6.4, "normalised units"),
        ("06", "hidden", 3.9, "all pixels"),
        ("06", "hidden", 3.6, "Gaussian"),
        ("06", "hidden", 3.0, "at 60 %"),
        ("06", "pull", 0.125, "Right"),
        ("06", "pull", 0.17, "share of the loss"),
        ("06", "pull", 0.1, "without the weight"),
        ("06", "pull", 12.5, "percent"),
        ("06", "level", -0.53, "Right"),
        ("06", "level", -0.31, "without the weight"),
        ("06", "level", -0.4, "squared error"),
        ("06", "level", -0.48, "linear"),
        ("06", "level", 0, "true level"),
        ("06", "apart", (0, 0.4), "Without it they notice"),
        ("06", "apart", (0.4, 0), "swapped"),
        ("06", "apart", (0.7, 0.9), "all tokens"),
        ("06", "apart", (0, 0), "change the pixels"),
        ("09", "sieve", 900, "Right"),
        ("09", "sieve", 4000, "before"),
        ("09", "sieve", 3100, "took"),
        ("09", "sieve", 3, "class by class"),
        ("09", "sieve", 910, "mask="),
        ("09", "sieve", 850, "touch at a corner"),
        ("09", "confidence", 60, "Right"),
        ("09", "confidence", 0.6, "In percent"),
        ("09", "confidence", 95, "count"),
        ("09", "confidence", 84, "from which confidence"),
        ("09", "confidence", 90, "all pixels from a confidence on"),
        ("09", "expected", 5, "Right"),
        ("09", "expected", 100, "sample by class"),
        ("09", "expected", 0.6, "percentage"),
        ("09", "expected", 4.5, "of the labels"),
        ("09", "expected", 50, "none of the usual"),
        ("10", "map", 31, "Right"),
        ("10", "map", 108_000, "seconds"),
        ("10", "map", 1800, "minutes"),
        ("10", "map", 120, "halved first"),
        ("10", "map", 150, "25 m², not 5"),
        ("10", "map", 30 * cli.SCALES["japan"][1], "authors' network"),
        ("10", "map", 7, "none of the usual"),
        ("10", "apart", 0.7, "Right"),
        ("10", "apart", 0.3, "is wrong"),
        ("10", "apart", 0.8, "repeat its pixels"),
        ("10", "apart", 0.6, "speckle and all"),
        ("10", "rate", 14.2, "Right"),
        ("10", "rate", 112, "eight GPUs share"),
        ("10", "rate", 14 / 800, "one epoch"),
        ("10", "rate", 50_400, "Hours are not seconds"),
        ("10", "rate", 14_000, "GFLOP/s"),
        ("10", "rate", 14 / 3, "forward pass alone"),
    ],
)
def test_an_answer_is_told_from_its_mistakes(capsys, chapter, name, answer, said):
    check = checks_of(chapter, OF[chapter])[f"check_{name}"]
    check(*answer) if isinstance(answer, tuple) else check(answer)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (0.625, "Right"),
        (-0.625, "larger"),
        (1.25, "10, not 20"),
        (8.1, "radians"),
        (1.155, "ratio"),
    ],
)
def test_gamma_nought(capsys, answer, said):
    checks_of("01", OF["01"])["check_gamma"](30, answer)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.py")), ids=lambda p: p.stem)
def test_every_check_of_a_chapter_is_tested(path):
    """By its name in a test."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.name[:6] == "check_"]
    files = Path(__file__).parent.glob("test_*.py")
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    tested = [f'("{path.stem[:2]}", "{name[6:]}", ' for name in names]
    unknown = [
        t for t, n in zip(tested, names, strict=True) if t not in text and f'"{n}"' not in text
    ]
    assert not unknown
