# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Only the relay's chart declares the buckets, they match the code, and nothing deletes them."""

from __future__ import annotations

from shared import contract
from tests.charts import chart, features


def test_the_relays_chart_declares_the_buckets_of_the_code() -> None:
    found = {one["metadata"]["name"]: one["spec"] for one in chart.of_kind(chart.render("relay"), "KeyValue")}
    assert set(found) == set(contract.BUCKETS)
    assert {name: spec["bucket"] for name, spec in found.items()} == {name: name for name in found}


def test_the_first_two_buckets_are_by_default_those_of_the_old_chart() -> None:
    found = {one["metadata"]["name"]: one["spec"] for one in chart.of_kind(chart.render("relay"), "KeyValue")}
    common = {"history": 1, "storage": "file", "replicas": 1, "preventDelete": True}
    records, index = contract.EMAIL_RECIPIENTS_BUCKET, contract.EMAIL_GROUP_INDEX_BUCKET
    assert found[records] == {"bucket": records, "maxValueSize": 65536, **common}
    assert found[index] == {"bucket": index, "maxValueSize": 1048576, **common}


def test_the_new_buckets_have_small_values_and_keys_expire_after_a_day() -> None:
    found = {one["metadata"]["name"]: one["spec"] for one in chart.of_kind(chart.render("relay"), "KeyValue")}
    keys, suppressions = contract.EMAIL_IDEMPOTENCY_BUCKET, contract.EMAIL_SUPPRESSIONS_BUCKET
    assert found[keys]["ttl"] == f"{contract.BUCKET_TTL_SECONDS[keys] // 3600}h"
    assert "ttl" not in found[suppressions]
    assert {found[keys]["maxValueSize"], found[suppressions]["maxValueSize"]} == {4096}


def test_no_case_of_the_trackers_chart_declares_a_bucket() -> None:
    for case in features.CASES["tracker"].values():
        assert chart.of_kind(chart.render("tracker", case), "KeyValue") == []


def test_neither_helm_nor_argo_cd_nor_nack_deletes_a_bucket() -> None:
    for bucket in chart.of_kind(chart.render("relay"), "KeyValue"):
        assert bucket["metadata"]["annotations"] == {
            "helm.sh/resource-policy": "keep",
            "argocd.argoproj.io/sync-options": "Prune=false,Delete=false",
        }
        assert bucket["spec"]["preventDelete"] is True


def test_replicas_and_sizes_are_values() -> None:
    given = {"replicas": 3, "buckets": {"email-recipients": {"maxBytes": 1 << 40}}}
    found = {
        one["metadata"]["name"]: one["spec"]
        for one in chart.of_kind(chart.render("relay", {"natsKVBuckets": given}), "KeyValue")
    }
    assert {spec["replicas"] for spec in found.values()} == {3}
    assert found["email-recipients"]["maxBytes"] == 1 << 40
    assert found["email-recipients"]["maxValueSize"] == 65536
    assert "maxBytes" not in found["email-group-index"]


def test_records_stay_unless_a_time_to_live_is_given() -> None:
    given = {"natsKVBuckets": {"buckets": {"email-recipients": {"ttl": "8760h"}}}}
    found = {
        one["metadata"]["name"]: one["spec"].get("ttl")
        for one in chart.of_kind(chart.render("relay", given), "KeyValue")
    }
    assert (found["email-recipients"], found["email-group-index"]) == ("8760h", None)


def test_the_chart_can_leave_the_buckets_to_others() -> None:
    assert chart.of_kind(chart.render("relay", {"natsKVBuckets": {"enabled": False}}), "KeyValue") == []
