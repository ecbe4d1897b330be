"""What is wrong with options and settings, in a line: the gist of jsonargparse's reports."""

import re

from cifar_lit.errors import TRACEBACK_VARIABLE

# Characters of a library's message that are shown.
MESSAGE_LIMIT = 400
# Of a class or function, such as my_package.MyModel.
_PATH = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+"
# How a report begins that is not about what a module did when it was imported.
_OF_THE_PARSER = ("Does not validate", "Expected ", "Import path ", "Not a valid ", "Option ", "Problem with ", "Type ")


def single(text: str) -> str:
    """A text as one line."""
    return " ".join(text.split())


def parsing_problem(text: str) -> str:
    """The gist of jsonargparse's report: which option, and the innermost of its nested reasons."""
    # Optional[...] also reports that None was not given.
    text = text.replace("Expected a <class 'NoneType'>", "")
    keys = re.findall(r'Parser key "([^"]+)"', text)
    option = "--" + ".".join(keys)
    if match := re.search(r"Option '([^']+)' is not accepted", text):
        classes = re.findall(r"class_path '?([\w.]+)'", text[: match.start()])
        classes += re.findall(r"class_path='([\w.]+)'", text[match.end() :].partition("\n")[0])
        name = classes[-1].rpartition(".")[2] if classes else option
        return f"{name} has no option {match[1]!r}: see {option}.help {name}."
    if problem := _class_problem(text, option):
        return problem
    value = re.search(r"(?:Got|Given) value: (\S+?)\.?\s", text + " ")
    given = f", not {value[1]!r}" if value else ""
    if kinds := re.findall(r"Expected a <class '(\w+)'>", text):
        article = "an" if kinds[0] == "int" else "a"
        return f"{option} wants {article} {' or '.join(dict.fromkeys(kinds))}{given}."
    if choices := re.findall(r"Expected a typing\.Literal\[(.*?)\]", text):
        return f"{option} wants one of {', '.join(choices)}{given}."
    if match := re.search(r"Expected a dot import path string: (\S+)", text):
        return f"{option} knows no class {match[1]!r}: give one that the README names, or module.Class of your own."
    if match := re.search(r"[Uu]nrecognized arguments?: (\S+)", text):
        return f"there is no option {match[1]}: see --help."
    if match := re.search(r"arguments are required: (.*)", text):
        missing = match[1].partition("\n")[0]
        if "model" in missing:
            return f"{missing.replace('fit.', '--')} missing: give a recipe, such as --config configs/quickstart.yaml."
        return f"{option} lacks {missing}: give it."
    if match := re.search(r"Problems parsing config: (.*)", text, re.DOTALL):
        return f"the --config file is no valid YAML: {single(match[1]).replace('<unicode string>', 'it')}."
    if match := re.search(r"File does not exist: (.*)", text):
        return f"there is no file {match[1]}: give the path of a recipe, such as configs/resnet20.yaml."
    message = single(text)
    return message if len(message) <= MESSAGE_LIMIT else message[: MESSAGE_LIMIT - 1] + "…"


def _class_problem(text: str, option: str) -> str | None:
    """What is wrong with a class that was given by its import path; None if the report is of something else."""
    given = re.search(rf"Expected a path but ({_PATH}) either", text)
    if match := re.search(rf"Import path (?:({_PATH}) )?does not correspond to a subclass of (\w+)", text):
        path = match[1] or (given[1] if given else "this")
        return f"{option} wants a class derived from {match[2]}, and {path} is none."
    if match := re.search(rf"Expected '({_PATH})' to be a subclass of <class '(\w+)'>", text):
        return f"{option} wants a class derived from {match[2]}, and {match[1]} is none."
    if match := re.search(r"Unexpected import path format: (\S*)|Invalid content in sub-config file (\S+):", text):
        return f"{option} wants a class by its import path, such as my_package.MyClass, not {match[1] or match[2]!r}."
    # Modules that are not there and names that are not in them; then anything else that ended an import.
    lost = r"(No module named '.*?'|module '.*?' has no attribute '.*?')"
    if match := re.search(rf"class_path '({_PATH})':\s+{lost}", text):
        return _import_problem(option, match[1], match[2])
    if match := re.search(rf"callable class: {lost}(?:\. Got value: (?:Namespace\(class_path=')?({_PATH}))?", text):
        return _import_problem(option, match[2] or (given[1] if given else "a class"), match[1])
    first = re.search(r"Errors:\n\s*- (.+)", text)
    path = re.search(rf"Given value: (?:\{{'class_path': ')?({_PATH})\b", text)
    if first and path and not first[1].startswith(_OF_THE_PARSER):
        return _import_problem(option, path[1], first[1])
    return None


def _import_problem(option: str, path: str, reason: str) -> str:
    missing = re.fullmatch(r"No module named '([\w.]+)'(?:; '.*' is not a package)?", reason)
    if missing and f"{path}.".startswith(f"{missing[1]}."):
        return f"{option} is {path}, and there is no module {missing[1]!r}: start where its file is, or install it."
    if match := re.fullmatch(r"module '([\w.]+)' has no attribute '(\w+)'", reason):
        return f"{option} is {path}, and there is no {match[2]!r} in {match[1]}: see how it is spelt there."
    return f"{option} is {path}, which cannot be imported: {reason} ({TRACEBACK_VARIABLE}=1 shows where)."
