# SPDX-License-Identifier: Apache-2.0
"""What was published is loaded elsewhere, with and without the package, and scores the same."""

import pytest

MODULES = {False: "transformers_modules.", True: "modeling_cks."}


def assert_loaded(found, scores, *, package=False):
    """Everything is of the expected code, and model and pipeline give the publisher's scores."""
    assert "error" not in found, found["error"]
    assert found["scores"] == pytest.approx(scores, abs=1e-6)
    assert not found["training"]
    assert all(kind.startswith(MODULES[package]) for kind in found["kinds"]), found["kinds"]
    by_place = {each["position"]: each["score"] for each in found["answer"]["stickers"]}
    assert [by_place[place] for place in range(4)] == pytest.approx(scores, abs=1e-6)


def test_without_the_package_the_repository_is_enough(published, stranger):
    assert_loaded(stranger["second"], published["second"]["scores"])
    assert (
        stranger["second"]["answer"]["emotion"]["label"]
        == (published["second"]["answer"]["emotion"]["label"])
    )
    assert [each["weight"] for each in stranger["second"]["answer"]["utterances"]] == (
        pytest.approx([u["weight"] for u in published["second"]["answer"]["utterances"]], abs=1e-6)
    )


def test_with_the_package_no_remote_code_is_asked_for(published, user):
    assert_loaded(user["second"], published["second"]["scores"], package=True)


@pytest.mark.parametrize("reader", ["stranger", "user"])
def test_a_pinned_commit_gives_its_own_weights_and_knowledge(published, reader, request):
    found = request.getfixturevalue(reader)
    first, second = published["first"]["scores"], published["second"]["scores"]
    assert max(abs(a - b) for a, b in zip(first, second, strict=True)) > 0.01
    assert_loaded(found["first"], first, package=reader == "user")


def test_a_tag_names_the_commit(published, stranger):
    assert_loaded(stranger["tag"], published["first"]["scores"])


def test_without_the_hub_the_cache_is_enough(published, offline):
    assert_loaded(offline["first"], published["first"]["scores"])
    assert_loaded(offline["second"], published["second"]["scores"])


@pytest.mark.parametrize("way", ["pushed", "saved"])
def test_model_and_processor_pushed_one_by_one_are_a_whole(published, stranger, way):
    assert_loaded(stranger[way], published["first"]["scores"])


def test_a_push_may_go_to_a_branch_of_a_private_repository(hub, published):
    assert hub["org/pushed"].private and not hub["org/cks"].private
    assert set(hub["org/pushed"].files("main")) == {".gitattributes"}
    assert "model.safetensors" in hub["org/pushed"].files("branch")


def test_what_the_trainer_pushes_in_the_end_is_a_whole(published, stranger):
    assert_loaded(stranger["trained"], published["trained"]["scores"])


def test_what_the_trainer_pushes_on_the_way_is_a_whole(published, stranger):
    assert_loaded(stranger["training"], published["training"]["scores"])
    assert stranger["training"]["scores"] != pytest.approx(stranger["trained"]["scores"], abs=1e-4)


def test_what_remote_code_saves_the_package_loads(published, user):
    assert_loaded(user["by stranger"], published["second"]["scores"], package=True)


def test_what_the_package_saves_remote_code_loads(published, stranger):
    assert_loaded(stranger["by package"], published["first"]["scores"])


def test_nothing_was_asked_that_a_hub_does_not_know(hub, published, stranger, user):
    assert hub.unknown == []
