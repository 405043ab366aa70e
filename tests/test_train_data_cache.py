"""What is encoded once: found again, made again when damaged, kept when interrupted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from likeness.trainers.data import cache as cache_file
from likeness.trainers.data import shards
from likeness.trainers.data.cache import Cache
from likeness.trainers.data.keys import KEY_BYTES, Keys
from likeness.trainers.machine.team import Team
from safetensors.torch import save_file

KEYS = [f"key {number}" for number in range(10)]


class Maker:
    """Makes records, and remembers which."""

    def __init__(self, stop_after=None):
        self.made, self.told, self.stop_after = [], [], stop_after

    def make(self, number):
        if self.stop_after is not None and len(self.made) == self.stop_after:
            raise KeyboardInterrupt
        self.made.append(number)
        draw = torch.Generator().manual_seed(number)
        mean = torch.randn(2, 3, generator=draw)
        return {"mean": mean, "half": mean[0].bfloat16(), "length": torch.tensor(number)}

    def tell(self, done, total):
        self.told.append((done, total))


def collect(root, maker, keys=KEYS, wish="disk", team=None, identity="a model"):
    cache = Cache(root, wish, team or Team())
    return cache.collect("latents", identity, keys, maker.make, maker.tell)


def assert_right(records, count=10):
    assert len(records) == count
    for number in range(count):
        for name, tensor in Maker().make(number).items():
            found = records[number][name]
            assert found.dtype == tensor.dtype
            assert torch.equal(found, tensor)


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ENTRIES", 4)


@pytest.mark.parametrize("wish", ["disk", "memory", "auto"])
def test_everything_is_made_once_and_progress_is_told(tmp_path, wish):
    maker = Maker()
    assert_right(collect(tmp_path, maker, wish=wish))
    assert maker.made == list(range(10))
    assert maker.told[-1] == (10, 10)
    again = Maker()
    assert_right(collect(tmp_path, again, wish=wish))
    assert again.made == ([] if wish == "disk" else list(range(10)))
    assert list(tmp_path.rglob("*.safetensors")) == [] or wish == "disk"


def test_equal_keys_share_an_entry(tmp_path):
    for wish in ("disk", "memory"):
        maker = Maker()
        records = collect(tmp_path, maker, keys=["a", "b", "a"], wish=wish)
        assert maker.made == [0, 1]
        assert torch.equal(records[0]["mean"], records[2]["mean"])


def test_another_model_and_another_key_are_other_entries(tmp_path):
    collect(tmp_path, Maker())
    other = Maker()
    collect(tmp_path, other, identity="another model")
    assert other.made == list(range(10))
    more = Maker()
    collect(tmp_path, more, keys=[*KEYS[:9], "new"])
    assert more.made == [9]


def test_what_was_made_before_an_interruption_is_kept(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        collect(tmp_path, Maker(stop_after=7))
    rest = Maker()
    assert_right(collect(tmp_path, rest))
    assert rest.made == [7, 8, 9]
    assert rest.told[0] == (7, 10)


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "no cache", "gone"])
def test_damaged_files_are_found_out_and_made_again(tmp_path, damage):
    collect(tmp_path, Maker())
    file = sorted(tmp_path.rglob("*.safetensors"))[0]
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        data[-1] ^= 1
        file.write_bytes(data)
    elif damage == "cut":
        file.write_bytes(data[:-3])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "no cache":
        save_file({"mean": torch.zeros(3)}, file)
    else:
        file.unlink()
    again = Maker()
    assert_right(collect(tmp_path, again))
    assert len(again.made) in ((1,) if damage == "flipped" else (2, 4))
    third = Maker()
    assert_right(collect(tmp_path, third))
    assert third.made == []


def test_a_file_that_goes_away_meanwhile_is_named(tmp_path):
    records = collect(tmp_path, Maker())
    for file in tmp_path.rglob("*.safetensors"):
        file.unlink()
    with pytest.raises(ValueError, match=r"safetensors of the cache is gone; queue again"):
        records[0]


def test_automatic_keeps_in_memory_what_is_small(tmp_path, monkeypatch):
    each = sum(t.numel() * t.element_size() for t in Maker().make(0).values())
    monkeypatch.setattr(cache_file, "MEMORY_BYTES", 15 * each)
    cache = Cache(tmp_path, "auto", Team(), left=15 * each)
    maker = Maker()
    cache.collect("latents", "model", KEYS, maker.make, maker.tell)
    assert list(tmp_path.rglob("*.safetensors")) == []
    assert_right(cache.collect("texts", "model", KEYS, maker.make, maker.tell))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3, "both together are too much"


def test_entries_of_several_shapes_lie_in_files_of_their_own(tmp_path):
    def make(number):
        return {"mean": torch.full((1 + number % 2, 2), float(number))}

    cache = Cache(tmp_path, "disk", Team())
    records = cache.collect("latents", "model", KEYS, make, lambda *_: None)
    assert [tuple(records[n]["mean"].shape) for n in (4, 5)] == [(1, 2), (2, 2)]
    assert float(records[5]["mean"][0, 0]) == 5.0


class Together(Team):
    """Two processes, one after the other: the second starts where the first waits."""

    def any(self, flag):
        return True

    def wait(self):
        pass


def test_two_processes_share_the_work_and_read_the_same(tmp_path):
    """The second looks when the first has written its share already, and makes its own."""
    makers = [Maker(), Maker()]
    for rank in (0, 1):
        cache = Cache(tmp_path, "auto", Together(rank, 2))
        folder = cache_file._folder(tmp_path, "latents", "a model")
        keys = Keys(KEYS)
        if rank == 0:
            with shards.ShardWriter(folder) as writer:
                for number in shards.find(folder, keys).missing[0::2]:
                    writer.add(keys[number], makers[0].make(keys.first[number]))
        else:
            assert_right(cache.collect("latents", "a model", KEYS, makers[1].make, lambda *_: None))
    assert sorted([*makers[0].made, *makers[1].made]) == list(range(10)), "none was made twice"


def test_keys_are_numbered_as_they_first_came():
    texts = ["b", "a", "b", "c", "a", *(f"text {number}" for number in range(500))]
    keys = Keys(texts)
    distinct = list(dict.fromkeys(texts))
    assert len(keys) == len(distinct)
    assert [texts[number] for number in keys.first] == distinct
    assert [distinct[number] for number in keys.place] == texts
    assert [keys.number_of(text) for text in distinct] == list(range(len(distinct)))
    assert all(len(keys[number]) == KEY_BYTES for number in range(len(keys)))
    with pytest.raises(KeyError, match="d"):
        keys.number_of("d")


def test_a_key_that_ends_in_zeros_is_found():
    text = next(text for text in map(str, range(10**6)) if Keys([text])[0].endswith(b"\0"))
    keys = Keys(["other", text])
    assert keys.numbers_of([keys[1], keys[0], b"\1" * KEY_BYTES]) == [1, 0, -1]


def test_no_keys():
    assert (len(Keys([])), list(Keys([]).place), Keys([]).numbers_of([b"?"])) == (0, [], [-1])


def test_reading_costs_the_same_with_a_hundred_times_the_entries(tmp_path, monkeypatch):
    """Counted as files opened and bytes read; and nothing is kept."""
    monkeypatch.setattr(shards, "SHARD_ENTRIES", 256)
    counts = {}
    for count in (30, 3000):
        keys = [f"key {number}" for number in range(count)]
        records = collect(tmp_path / str(count), Maker(), keys=keys)
        read = []
        original = shards.Shard.read
        monkeypatch.setattr(
            shards.Shard, "read", lambda self, row, to=read, do=original: _read(self, row, to, do)
        )
        for number in range(0, count, max(1, count // 20)):
            records[number]
        monkeypatch.setattr(shards.Shard, "read", original)
        counts[count] = set(read)
        files = len(list((tmp_path / str(count)).rglob("*.safetensors")))
        assert files == -(-count // 256), "some hundred entries to a file"
    assert counts[30] == counts[3000] and len(counts[30]) == 1


def _read(shard, row, to, do):
    opened = []

    class Path:
        def open(self, mode):
            opened.append(mode)
            return type(shard.path).open(shard.path, mode)

    record = do(replace(shard, path=Path()), row)
    size = sum(t.numel() * t.element_size() for t in record.values())
    to.append((len(opened), size))
    return record
