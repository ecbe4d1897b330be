"""What is wrong with options and settings, in a line: the gist of jsonargparse's reports."""

import importlib.util
import inspect
import re
import sys
from difflib import get_close_matches
from typing import Any

from cifar_lit.errors import TRACEBACK_VARIABLE
from cifar_lit.near_names import classes_near, known_classes, listed, option_near, section_near, setting_near

# Characters of a library's message that are shown.
_MESSAGE_LIMIT = 400
# Of a class or function, such as my_package.MyModel.
_PATH = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+"
# How a report begins that is not about what a module did when it was imported.
_OF_THE_PARSER = (
    *("Does not validate", "Expected ", "Import path ", "Key ", "Not a valid ", "Not of type ", "Option "),
    *("Given value", "Parser key ", "Problem with ", "Type ", "a class path (", "a dict with"),
)
_AS_A_CLASS = "wants a class and its settings as {class_path: NAME, init_args: {SETTING: VALUE}}."
# What a schedule of torch calls the number of steps, where it comes first.
_STEPS = ("total_steps", "total_iters", "T_max")


def single(text: str) -> str:
    """A text as one line."""
    return " ".join(text.split())


def shown(text: str) -> str:
    """What is shown of a library's message: one line, cut where it is long."""
    message = single(text)
    return message if len(message) <= _MESSAGE_LIMIT else message[: _MESSAGE_LIMIT - 1] + "…"


def parsing_problem(text: str) -> str:
    """The gist of a report: which option, and the innermost of its nested reasons.

    Args:
        text: What jsonargparse has to say of an option or a setting.

    Returns:
        One line, without the program's name.
    """
    # Optional[...] also reports that None was not given.
    text = text.replace("Expected a <class 'NoneType'>", "")
    keys = re.findall(r'Parser key "([^"]+)"', text)
    option = "--" + ".".join(keys)
    if match := re.search(r"Option '([^']+)' is not accepted", text):
        classes = re.findall(r"class_path '?([\w.]+)'", text[: match.start()])
        classes += re.findall(r"class_path='([\w.]+)'", text[match.end() :].partition("\n")[0])
        name = classes[-1].rpartition(".")[2] if classes else option
        if match[1] == "class_path" or match[1].partition(".")[0] in known_classes(option).values():
            return f"{option} {_AS_A_CLASS}"
        told = _told_the_steps(classes[-1] if classes else "", match[1])
        near = setting_near(match[1], classes[-1] if classes else "")
        return told or f"{name} has no option {match[1]!r}: {near}see {option}.help {name}."
    if (match := re.search(r"Group '(\w+)' does not", text)) and match[1] in known_classes(option).values():
        return f"{option} {_AS_A_CLASS}"
    lacking = re.findall(rf"class_path '({_PATH})':\s+the following arguments are required: (.+)", text)
    if lacking:
        # The innermost.
        path, missing = lacking[-1]
        return f"{option}: {path.rpartition('.')[2]} lacks {missing}: give it."
    if match := re.search(r"Multiple subclasses with name (\w+)\. .*?: (.+?)\.?\n", text):
        if match[1] == "ReduceLROnPlateau":
            return f"{option}: give Plateau, which is ReduceLROnPlateau with the name of what it monitors."
        return f"{option}: there are several classes {match[1]}: give {listed(match[2].split(', '))}."
    if problem := _class_problem(text, option):
        return problem
    value = re.search(r"(?:Got|Given) value: (\S+?)\.?\s", text + " ")
    given = f", not {value[1]!r}" if value else ""
    if choices := re.findall(r"Expected a typing\.Literal\[(.*?)\]", text):
        return f"{option} wants one of {', '.join(choices)}{given}."
    kinds = [*dict.fromkeys(re.findall(r"Expected a <class '(\w+)'>", text))]
    if re.search(r"Expected a <class 'collections.abc.(Sequence|Iterable)'>", text):
        kinds.append("list")
    if kinds == ["str"] and value and value[1] in ("True", "False"):
        return (
            f"{option} wants a text{given}: put it in quotes where YAML takes it for that, as it does no, off and on."
        )
    if kinds and option.endswith(".logger"):
        return f"{option} wants true, false, or a class such as CSVLogger{given}."
    if kinds:
        return f"{option} wants {'an' if kinds[0] == 'int' else 'a'} {' or '.join(kinds)}{given}."
    if match := re.search(r"Not of type \w+: Expected (.+) but got (.+)", text):
        return f"{option} wants {match[1]}, not {match[2]}."
    if match := re.search(r"Expected a dot import path string: (\S+)", text):
        none = "null for none, or " if match[1].lower() == "none" else ""
        near = classes_near(match[1], option)
        return f"{option} knows no class {match[1]!r}: give {none}{near}, or module.Class of your own."
    if match := re.search(r"[Uu]nrecognized arguments?: (\S+)", text):
        if ".help" in match[1]:
            return f"there is no option {match[1]}: name before it whose help it is, as by --config or --model."
        if not match[1].startswith("-"):
            return f"{match[1]} stands without an option: {_meant_by(match[1])}."
        return f"there is no option {match[1]}: {option_near(match[1])}see --help."
    if match := re.search(r"does not accept option '(\w+)(\S*)'", text):
        return f"there is no setting {match[1]}{match[2]}: {section_near(match[1])}see --help."
    if "Unable to load config" in text and {*keys} == {"checkpoint"}:
        return "--checkpoint is for settings of saving, as --checkpoint.monitor: give a run or file with --ckpt_path."
    if match := re.search(r"arguments are required: (.*)", text):
        missing = match[1].partition("\n")[0]
        if "model" in missing:
            return f"{missing.replace('fit.', '--')} missing: give a recipe, such as --config configs/quickstart.yaml."
        return f"{option} lacks {missing}: give it."
    if match := re.search(r"Problems parsing config: (.*)", text, re.DOTALL):
        return f"the --config file is no valid YAML: {single(match[1]).replace('<unicode string>', 'it')}."
    if match := re.search(r"Unexpected config: *(.*)", text):
        given = f", but {shown(match[1])!r}" if match[1] else ""
        return f"the --config file has no settings{given}: give a recipe, such as configs/resnet20.yaml."
    if "subcommand" in text and (match := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", text)):
        commands = re.findall(r"\w+", match[2])
        meant = get_close_matches(match[1], commands, 1) or commands
        return f"there is no command {match[1]}: give {listed(meant)}."
    if 'expected "subcommand"' in text:
        return "no command is given: see --help, or begin with fit --config configs/quickstart.yaml."
    if match := re.search(r"Path is not a file: '?(.*?)'?$", text):
        return f"{match[1]} is no file: give the path of a recipe, such as configs/resnet20.yaml."
    if match := re.search(r"File does not exist: (.*)", text):
        return f"there is no file {match[1]}: give the path of a recipe, such as configs/resnet20.yaml."
    return shown(text)


def _meant_by(value: str) -> str:
    """What to do about a value that stands alone, by its ending."""
    if value.endswith((".yaml", ".yml")):
        return f"give --config {value}"
    if value.endswith(".ckpt"):
        return f"give --ckpt_path {value}"
    return "one takes one value, in quotes where it has spaces, as --images takes a picture or a folder of them"


def _class_problem(text: str, option: str) -> str | None:
    """What is wrong with a class that was given by its import path; None if the report is of something else."""
    if match := re.search(r"Unexpected import path format: (\S*)|sub-config file (\S+\.py): ", text):
        return f"{option} wants a class by its import path, such as my_package.MyClass, not {match[1] or match[2]!r}."
    if match := re.search(r"Invalid content in sub-config file (\S+): ", text):
        return f"{option} is the file {match[1]}, which is no valid YAML: mend it, or give a class by its import path."
    paths = dict.fromkeys(re.findall(rf"(?:path but |Import path |class_path'?[ =:]+'|Expected ')({_PATH})", text))
    for path in paths:
        if problem := _import_problem(path, text):
            return f"{option} is {path}, {problem}"
    # These are values of any kind, which may just look like a path.
    for path in re.findall(rf"(?:Given value: |val=')({_PATH})", text):
        if _reason(text) and (problem := _import_problem(path, text)):
            return f"{option} is {path}, {problem}"
    if reason := _reason_of_a_class(text):
        return reason if option == "--" else f"{option}: {reason}"
    # The innermost comes first of the values, and last of the others.
    given = re.search(rf"Given value: (?:\{{'class_path': ')?({_PATH})", text)
    named = given[1] if given else next(reversed(paths), "this")
    if match := re.search(rf"Import path (?:({_PATH}) )?does not correspond to a subclass of (\w+)", text):
        return f"{option} wants a class derived from {match[2]}, and {match[1] or named} is none."
    if match := re.search(rf"Expected '({_PATH})' to be a subclass of <class '(\w+)'>", text):
        return f"{option} wants a class derived from {match[2]}, and {match[1]} is none."
    if "class, but is abstract" in text:
        return f"{option} is {named}, which is abstract: define what it leaves open, or give a class that does."
    return None


def _told_the_steps(path: str, setting: str) -> str | None:
    """What there is to say of a schedule's setting that nobody can give: that which stands for the number of steps."""
    module, _, name = path.rpartition(".")
    schedule = getattr(sys.modules.get(module), name, None)
    if module != "torch.optim.lr_scheduler" or schedule is None:
        return None
    if [*inspect.signature(schedule).parameters][1:2] != [setting]:
        return None
    if setting in _STEPS:
        return f"{setting} of {name} is the run's number of steps, which it is told: leave it out."
    return (
        f"{name} wants {setting} where a run tells its number of steps: give OneCycle, StepTable or another schedule."
    )


def _reason_of_a_class(text: str) -> str | None:
    """Why a class could not be made of its settings, in its own words; None if a report has the parser's alone."""
    for item in re.findall(r"^ *- (.+?)(?=\n *- |\n *Given value|\Z)", text, re.DOTALL | re.MULTILINE):
        of_class, words = re.match(rf"(?:Problem with given class_path '({_PATH})':\s)?(.*)", item, re.DOTALL).groups()  # type: ignore[union-attr]
        named = of_class or next(iter(re.findall(rf"class_path='({_PATH})'", text)), None)
        # What pydantic adds for those who wrote the class.
        words = re.sub(r"\[type=.*|For further information.*|\d+ validation errors? for \w+", "", words)
        words = re.sub(r" Value error,", ":", single(words))
        if named and words and not words.startswith(_OF_THE_PARSER):
            return f"{named.rpartition('.')[2]}: {shown(words)}"
    return None


def _import_problem(path: str, text: str) -> str | None:
    """Why a class is not there, of which the parser has tried to import the module; None if it is there."""
    parts = path.split(".")
    here: Any = None
    for i, name in enumerate(parts):
        module = ".".join(parts[: i + 1])
        if i < len(parts) - 1 and module in sys.modules:
            here = sys.modules[module]
        elif i < len(parts) - 1 and _is_there(module):
            reason = _reason(text)
            hint = f"{TRACEBACK_VARIABLE}=1 shows where"
            return f"which cannot be imported: {reason} ({hint})." if reason else f"which cannot be imported ({hint})."
        elif i == 0:
            return f"and there is no module {name!r}: start where its file is, or install it."
        elif not hasattr(here, name):
            return f"and there is no {name!r} in {'.'.join(parts[:i])}: see how it is spelt there."
        else:
            here = getattr(here, name)
    return None


def _is_there(module: str) -> bool:
    """Whether a module can be found, whose package is imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def _reason(text: str) -> str | None:
    """What ended an import: the first of a report's lines that the parser has not in its own words."""
    lines: list[str] = re.findall(r"^ *(?:- (?!Problem with)|- Problem with .*:\n *)(.+)$", text, re.MULTILINE)
    return next((line for line in lines if not line.startswith(_OF_THE_PARSER)), None)
