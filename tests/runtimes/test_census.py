import pytest
import torch

from memfloor.runtimes.census import operator_census


def test_operators_are_counted_by_name():
    left = torch.ones(4, 4)
    assert operator_census(lambda: (left @ left + left).relu()) == {
        "aten::add.Tensor": 1,
        "aten::mm": 1,
        "aten::relu": 1,
    }


def test_the_step_is_taken_once():
    calls = []
    operator_census(lambda: calls.append(1))
    assert calls == [1]


def test_fused_attention_is_seen_as_the_back_end_it_chose():
    query = torch.ones(1, 2, 1, 16, dtype=torch.bfloat16)
    names = operator_census(lambda: torch.nn.functional.scaled_dot_product_attention(query, query, query))
    assert any(name.startswith("aten::_scaled_dot_product_") for name in names)


def test_a_step_leaves_no_gradient_behind():
    weight = torch.ones(2, 2, requires_grad=True)
    results = []
    operator_census(lambda: results.append(weight @ weight))
    assert not results[0].requires_grad


@pytest.fixture
def library():
    """Define an operator that is one for every device, of another that has a kernel for a CPU, and of torch's."""
    with torch.library._scoped_library("memfloor_test", "DEF") as made:
        made.define("twice(Tensor x) -> Tensor")
        made.define("product(Tensor x) -> Tensor")
        made.impl("twice", lambda x: x + x, "CPU")
        made.impl("product", lambda x: torch.ops.memfloor_test.twice(x) @ x, "CompositeExplicitAutograd")
        yield


def test_what_a_librarys_operator_calls_is_counted_where_it_is_looked_into(library):
    matrix = torch.ones(2, 2)

    def step():
        results.append(torch.ops.memfloor_test.product(matrix))

    results = []
    assert operator_census(step) == {"memfloor_test::product": 1}
    assert operator_census(step, inside=("memfloor_test",)) == {
        "aten::add.Tensor": 1,
        "aten::matmul": 1,
        "memfloor_test::product": 1,
        "memfloor_test::twice": 1,
    }
    assert torch.equal(results[0], results[1])
