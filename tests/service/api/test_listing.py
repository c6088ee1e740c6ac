"""A tenant's jobs page by page, and what deleting one leaves: nothing."""

import json
from typing import Any

import httpx
import pytest
from redis import Redis

from service.contract.job import Lane
from tests.service.conftest import Submit
from tests.support.keys import make_key
from tests.support.lanes import HandWorker


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json()["data"]]


def test_pages_lead_through_all_jobs_newest_first(http: httpx.Client, submit: Submit) -> None:
    assert http.get("/jobs").json() == {"object": "list", "data": [], "next": None}
    known = [submit(seed=str(seed))["id"] for seed in range(5)]
    first = http.get("/jobs", params={"limit": 2})
    assert ids(first) == known[:2:-1]
    second = http.get("/jobs", params={"limit": 2, "after": first.json()["next"]})
    assert ids(second) == known[2:0:-1]
    assert second.links["next"]["url"].startswith(str(http.base_url))
    last = http.get(second.links["next"]["url"])
    assert (ids(last), last.json()["next"], last.links) == (known[:1], None, {})
    assert ids(http.get("/jobs", params={"order": "asc"})) == known
    # A job accepted between two pages moves nothing.
    submit(seed="9")
    assert ids(http.get("/jobs", params={"limit": 2, "after": first.json()["next"]})) == ids(second)


def test_a_page_holds_what_was_asked_for(
    http: httpx.Client, submit: Submit, worker: HandWorker
) -> None:
    done, stopped, waiting = (submit(seed=str(seed))["id"] for seed in range(3))
    worker.run_all(1)
    http.post(f"/jobs/{stopped}/cancel").raise_for_status()
    for status, expected in (("completed", done), ("cancelled", stopped), ("queued", waiting)):
        page = http.get("/jobs", params={"status": status, "limit": 1})
        assert ids(page) == [expected]
        assert page.json()["next"] is None
    both = http.get("/jobs", params={"status": ["queued", "completed"]})
    assert ids(both) == [waiting, done]
    for wrong in (
        {"status": "gone"},
        {"limit": 0},
        {"limit": 101},
        {"after": "x"},
        {"order": "up"},
    ):
        assert http.get("/jobs", params=wrong).status_code == 422


def test_jobs_are_found_by_their_metadata(
    http: httpx.Client, submit: Submit, worker: HandWorker
) -> None:
    red, blue = {"project": "red", "shot": "1"}, {"project": "blue", "shot": "1"}
    first, second, third = (
        submit(seed=str(seed), metadata=json.dumps(words))["id"]
        for seed, words in enumerate((red, blue, red))
    )
    submit(seed="7")
    assert http.get(f"/jobs/{first}").json()["metadata"] == red
    for asked, expected in (
        ({"metadata[project]": "red"}, [third, first]),
        ({"metadata[shot]": "1"}, [third, second, first]),
        ({"metadata[project]": "blue", "metadata[shot]": "1"}, [second]),
        ({"metadata[project]": "blue", "metadata[shot]": "2"}, []),
        ({"metadata[other]": "red"}, []),
    ):
        assert ids(http.get("/jobs", params=asked)) == expected
    worker.run_all(1)
    both = {"metadata[project]": "red", "status": "queued"}
    assert ids(http.get("/jobs", params=both)) == [third]
    page = http.get("/jobs", params={"metadata[project]": "red", "limit": 1})
    assert ids(page) == [third]
    assert ids(http.get(page.links["next"]["url"])) == [first]
    for wrong in ("metadata", "metadata[]", "metadata[a b]", "metadata[a][b]"):
        answer = http.get("/jobs", params={wrong: "x"})
        assert answer.status_code == 422, wrong
        assert answer.json()["errors"][0]["pointer"] == "#/query/metadata"


def test_a_tenant_sees_its_own_jobs_only(
    redis_url: str, tmp_path: Any, picture: bytes, open_gateway: Any
) -> None:
    with open_gateway(redis_url, tmp_path / "storage", auth="keys") as gateway:
        ann, bob = (
            httpx.Client(
                base_url=gateway.url,
                headers={"Authorization": f"Bearer {make_key(redis_url, tenant)}"},
            )
            for tenant in ("ann", "bob")
        )
        with ann, bob:
            job = ann.post("/jobs", data={"prompt": "x"}, files={"image": picture}).json()
            assert (ids(ann.get("/jobs")), ids(bob.get("/jobs"))) == ([job["id"]], [])
            ann.post(f"/jobs/{job['id']}/cancel").raise_for_status()
            assert bob.delete(f"/jobs/{job['id']}").status_code == 404
            assert ann.delete(f"/jobs/{job['id']}").status_code == 204


def test_a_deleted_job_leaves_nothing(
    http: httpx.Client, submit: Submit, worker: HandWorker, redis: Redis
) -> None:
    job_id = submit()["id"]
    kept = submit(seed="2")["id"]
    worker.run(Lane.RENDER, 2)
    running = http.delete(f"/jobs/{job_id}")
    assert (running.status_code, running.json()["code"]) == (409, "job_conflict")
    assert "cancel it" in running.json()["detail"]
    worker.run(Lane.DELIVER, 2)
    job = http.get(f"/jobs/{job_id}").json()
    assert job["links"]["delete"] == job["links"]["self"]
    assert list(worker.storage.list(f"jobs/{job_id}/"))
    assert http.delete(f"/jobs/{job_id}").status_code == 204
    assert not list(worker.storage.list(f"jobs/{job_id}/"))
    assert not redis.keys(f"framepack:job:{job_id}*")
    for path in ("", "/events", "/video"):
        assert http.get(f"/jobs/{job_id}{path}").status_code == 404
    assert http.delete(f"/jobs/{job_id}").status_code == 404
    assert httpx.get(job["clips"][0]["url"]).status_code == 404
    assert ids(http.get("/jobs")) == [kept]
    assert list(worker.storage.list(f"jobs/{kept}/"))


def test_an_expired_job_leaves_the_list(http: httpx.Client, submit: Submit, redis: Redis) -> None:
    gone, kept = submit()["id"], submit(seed="2")["id"]
    redis.delete(f"framepack:job:{gone}")
    assert ids(http.get("/jobs")) == [kept]
    assert redis.zcard("framepack:listed:default") == 1


@pytest.mark.parametrize("looked_at", [500])
def test_a_look_is_bounded_and_goes_on(
    http: httpx.Client, submit: Submit, redis: Redis, looked_at: int
) -> None:
    oldest = submit()["id"]
    # Ids of jobs that have expired, accepted later.
    redis.zadd("framepack:listed:default", {f"{n:032x}": 10 + n for n in range(looked_at)})
    first = http.get("/jobs").json()
    assert first["data"] == []
    assert ids(http.get("/jobs", params={"after": first["next"]})) == [oldest]
