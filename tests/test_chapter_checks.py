"""The checks on a reader's own answer: each names the mistake that was made."""

import ast
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
FACTS = {
    "facts": {
        "encoder": {"IoU": 0.62, "recall": 0.9, "accuracy": 0.81, "training": 0.7},
        "statistics": {"IoU": 0.33, "recall": 0.5, "accuracy": 0.74, "training": 0.41},
    },
    "few_labels": {"all": 0.31, "patches": 0.22, "tokens": 0.29},
    "late": {
        "share": 0.06, "encoder": 0.62, "statistics": 0.33, "first": 0.01, "last": 0.4,
        "fine-tuned": 0.6, "u-net": 0.84, "epochs": 12,
        "rarer": "Rarer classes (wetland) are learnt all the same, with more steps.",
    },
}  # fmt: skip


def functions(chapter, facts):
    """The functions ``check_...`` of a chapter, with facts of our own."""
    tree = ast.parse((NOTEBOOKS / chapter).read_text(encoding="utf-8"))
    found = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name[:6] == "check_"]
    space = dict(facts)
    exec(compile(ast.Module(found, []), chapter, "exec"), space)
    return space


@pytest.fixture(scope="module")
def checks():
    return functions("07_finetuning.py", FACTS)


@pytest.fixture(scope="module")
def evaluation_checks():
    """Of chapter 08."""
    lead = {"right": (0.04, 0.08), "turned": (-0.08, -0.04), "apart": (0.0, 0.12)}
    return functions("08_evaluation.py", {
        "lead_of": lead | {"one seed": (0.03, 0.07)},
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
