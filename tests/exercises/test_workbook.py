"""The workbook itself: its text, and that its examples are right."""

import ast
import doctest

from pgtorch.exercises import solutions
from pgtorch.exercises.cases import EXERCISES
from pgtorch.exercises.workbook import SOLUTIONS, blank


def functions(source):
    return [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]


def test_examples_are_right():
    result = doctest.testmod(solutions)
    assert result.attempted >= 14
    assert result.failed == 0


def test_the_workbook_is_the_solutions_without_the_answers():
    questions, answers = functions(blank()), functions(SOLUTIONS.read_text())
    assert [f.name for f in questions] == [f.name for f in answers] == [exercise.name for exercise in EXERCISES]
    for number, (question, answer) in enumerate(zip(questions, answers, strict=True), start=1):
        assert ast.unparse(question.args) == ast.unparse(answer.args)
        assert ast.get_docstring(question) == ast.get_docstring(answer)
        assert ast.get_docstring(question).startswith(f"{number}. ")
        assert ">>> " in ast.get_docstring(question)
        assert [ast.unparse(node) for node in question.body[1:]] == ["raise NotImplementedError"]
    assert ast.get_docstring(ast.parse(blank())) == solutions.__doc__.strip()
    assert max(map(len, blank().splitlines())) <= 120
