"""Finds in a source what would run code that came as data: for tests/test_imports.py, which holds that nothing does.

Names are followed through `import … as`, `from … import … as`, assignments and `getattr` with a text. It is for slips,
and for who takes a short cut; somebody who wants to hide it from a reader can hide it from this too.
"""

from __future__ import annotations

import ast
from typing import NamedTuple

# Modules that make objects of bytes by running what these say, or run files.
MODULES = frozenset(
    ["pickle", "_pickle", "marshal", "shelve", "cloudpickle", "dill", "joblib", "multiprocessing", "yaml", "runpy"]
)
# What does the same in modules that are good for something else; with a module its contents are meant.
NAMES = (
    *("torch.load", "torch.jit.load", "torch.export.load", "torch.serialization", "torch.package", "torch.hub"),
    *("numpy.load", "numpy.lib.format.read_array", "pandas.read_pickle"),
    *("builtins.eval", "builtins.exec", "builtins.__import__"),
    *("importlib.import_module", "importlib.__import__", "importlib.util.spec_from_file_location"),
    *("pkgutil.resolve_name", "pydoc.locate"),
)
# Of whatever object: loaders of importlib have them.
METHODS = ("exec_module", "load_module")
_BUILTINS = ("eval", "exec", "__import__", "getattr")


class Finding(NamedTuple):
    """What was found, by its full name, in which function ("": in none)."""

    line: int
    function: str
    name: str


def findings(source: str) -> list[Finding]:
    """All that is in the source, by line. `numpy.load` with `allow_pickle=False` is none."""
    reader = _Reader(ast.parse(source))
    return sorted(set(reader.found))


def _is_bad(name: str) -> bool:
    return not MODULES.isdisjoint(name.split(".")) or any(f"{name}.".startswith(f"{bad}.") for bad in NAMES)


class _Reader(ast.NodeVisitor):
    def __init__(self, tree: ast.Module) -> None:
        self.found: list[Finding] = []
        self._function = ""
        # Each name of the source, wherever in it: what it can stand for.
        self._known: dict[str, set[str]] = {name: {f"builtins.{name}"} for name in _BUILTINS}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    top = alias.name.partition(".")[0]
                    self._learn(alias.asname or top, {alias.name if alias.asname else top})
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    self._learn(alias.asname or alias.name, {f"{node.module}.{alias.name}"})
        while any(self._assigned(node) for node in ast.walk(tree)):
            pass  # one assignment can build on another
        self.visit(tree)

    def _learn(self, name: str, meanings: set[str]) -> bool:
        """Whether that is news."""
        known = self._known.setdefault(name, set())
        news = meanings - known
        known |= news
        return bool(news)

    def _assigned(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.NamedExpr):
            targets, value = [node.target], node.value
        else:
            return False
        # Bounded, because `x = x.y` is one part longer each time.
        meanings = {name for name in self._meanings(value) if name.count(".") < 4}
        return any(self._learn(target.id, meanings) for target in targets if isinstance(target, ast.Name))

    def _meanings(self, node: ast.expr) -> set[str]:
        """The full names that an expression can stand for; none if it is something else."""
        if isinstance(node, ast.Name):
            return self._known.get(node.id, set())
        if isinstance(node, ast.Attribute):
            return {f"{name}.{node.attr}" for name in self._meanings(node.value)}
        if isinstance(node, ast.Call) and "builtins.getattr" in self._meanings(node.func) and len(node.args) > 1:
            attribute = node.args[1]
            if isinstance(attribute, ast.Constant):
                return {f"{name}.{attribute.value}" for name in self._meanings(node.args[0])}
        return set()

    def _judge(self, node: ast.AST, names: set[str]) -> None:
        line = getattr(node, "lineno", 0)
        self.found += [Finding(line, self._function, name) for name in names if _is_bad(name)]

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        outer, self._function = self._function, node.name
        self.generic_visit(node)
        self._function = outer

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Import(self, node: ast.Import) -> None:
        self._judge(node, {alias.name for alias in node.names})

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        # numpy.load is judged where it is called.
        self._judge(node, {f"{node.module}.{alias.name}" for alias in node.names} - {"numpy.load"})
        if any(alias.name == "*" for alias in node.names):
            self.found.append(Finding(node.lineno, self._function, f"{node.module}.*"))

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self._judge(node, self._meanings(node))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._judge(node, self._meanings(node))
        if node.attr in METHODS:
            self.found.append(Finding(node.lineno, self._function, node.attr))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        self._judge(node, self._meanings(node))
        if self._meanings(node.func) == {"numpy.load"} and _pickles_nothing(node):
            for part in (*node.args, *node.keywords):
                self.visit(part)
        else:
            self.generic_visit(node)


def _pickles_nothing(call: ast.Call) -> bool:
    return any(
        keyword.arg == "allow_pickle" and isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        for keyword in call.keywords
    )
