"""What README.md says is so."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_ci_runs_the_readmes_test_command() -> None:
    command = 'pip install -c constraints.txt -e ".[test]" && pytest -n 2 --dist loadfile'
    assert command in README
    # On lines of their own: with `set -e` a failure left of && would be passed over.
    lines = (REPOSITORY / ".ci" / "run").read_text().splitlines()
    first = lines.index(command.split(" && ")[0].replace("pip install", "pip install -q"))
    assert lines[first + 1] == command.split(" && ")[1]


def test_the_table_names_every_recipe_with_its_parameters() -> None:
    rows = dict(re.findall(r"^\| `(\w+)`.*?\| ([\d,]+) \|", README, re.MULTILINE))
    recipes = {path.stem: path.read_text(encoding="utf-8") for path in (REPOSITORY / "configs").glob("*.yaml")}
    assert rows.keys() == recipes.keys()
    for name, text in recipes.items():
        assert f"{rows[name]} parameters" in text, name


def test_every_file_that_it_names_exists() -> None:
    named = re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r"\b((?:configs|cifar_lit|docs)/[\w./]+\.\w+)", README)
    assert named
    assert [name for name in named if not (REPOSITORY / name).exists()] == []


def test_constraints_are_plain_pins() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!]+", line) for line in lines)
