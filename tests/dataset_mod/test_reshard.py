# SPDX-License-Identifier: Apache-2.0
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from release_files import ReleaseFiles

from dataset_mod.prepared import prepare, read_statistics, reshard, verify_prepared
from dataset_mod.release import file_sha256

NAME = "data/en/train-00000-of-00001.parquet"


@pytest.fixture
def data(tmp_path):
    prepare(ReleaseFiles().write(tmp_path / "release"), tmp_path / "data")
    return tmp_path / "data"


def test_what_is_small_enough_is_taken_as_it_is(data, tmp_path):
    files = reshard(data, tmp_path / "staging", 1 << 30)
    names = [*read_statistics(data)["files"], "statistics.json"]
    assert files == {name: data / name for name in names}


def test_a_row_is_never_cut_however_small_the_limit(data, tmp_path):
    files = reshard(data, tmp_path / "staging", 1)
    shards = [files[f"data/en/train-{n:05d}-of-00004.parquet"] for n in range(4)]
    assert NAME not in files
    rows = [pq.read_table(shard).to_pylist() for shard in shards]
    assert [len(row) for row in rows] == [1, 1, 1, 1]
    assert sum(rows, []) == pq.read_table(data / NAME).to_pylist()


def test_rows_of_many_groups_keep_their_order(data, tmp_path):
    # As a long table is written: in groups that the shards do not respect.
    table = pa.concat_tables([pq.read_table(data / NAME)] * 750)
    table = table.set_column(1, table.schema.field("turn"), pa.array(range(3000), pa.int32()))
    pq.write_table(table, data / NAME, row_group_size=700)
    statistics = read_statistics(data)
    statistics["files"][NAME] = file_sha256(data / NAME)
    (data / "statistics.json").write_text(json.dumps(statistics))
    limit = (data / NAME).stat().st_size * 2 // 3
    files = reshard(data, tmp_path / "staging", limit)
    shards = [path for name, path in sorted(files.items()) if name.startswith("data/en/train-")]
    parts = [pq.read_table(shard) for shard in shards]
    assert len(shards) == 2 and parts[0].num_rows > 1024
    assert max(shard.stat().st_size for shard in shards) <= limit
    assert pa.concat_tables(parts).equals(table)


def test_the_statistics_name_the_shards(data, tmp_path):
    files = reshard(data, tmp_path / "staging", 1)
    files["statistics.json"].rename(tmp_path / "staging" / "statistics.json")
    statistics = verify_prepared(tmp_path / "staging")
    assert set(statistics.pop("files")) == set(files) - {"statistics.json"}
    assert statistics == {k: v for k, v in read_statistics(data).items() if k != "files"}


def test_a_damaged_folder_is_not_whole(data):
    table = data / NAME
    table.write_bytes(table.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=f"{NAME}: missing or damaged"):
        verify_prepared(data)


def test_what_people_wrote_has_no_generator(data):
    assert read_statistics(data)["generator"] is None
