"""Resumable uploads: the protocol tus 1.0.0 over a real database; where connections break: test_tus_cuts.py."""

import hashlib
from datetime import timedelta
from email.utils import parsedate_to_datetime

import pytest
from sqlalchemy import update

from app.dependencies import House
from app.main import create_app
from core import transfers
from core.config import Settings
from core.tables import Transfer, Upload, UploadStatus, utc_now
from core.uploads import incoming_folder
from tests.app.api.tus_client import BODY, PIECE, TUS, VERSION, begin, checksum, metadata, offset_of, send, whole
from tests.app.people import Caller, caller


@pytest.fixture
def dataset_id(ada: Caller) -> str:
    made = ada.client.post("/api/v1/datasets", json={"name": "Розы"})
    return str(made.json()["id"])


def test_what_is_spoken_is_told(ada: Caller) -> None:
    answer = ada.client.options(TUS)
    assert answer.status_code == 204
    assert answer.headers["Tus-Version"] == "1.0.0"
    told = set(answer.headers["Tus-Extension"].split(","))
    assert told == {"creation", "creation-with-upload", "expiration", "checksum", "termination"}
    assert answer.headers["Tus-Checksum-Algorithm"] == "sha256,sha1,md5"
    assert int(answer.headers["Tus-Max-Size"]) == 10_000_000_000


@pytest.mark.both_databases
def test_a_file_in_three_pieces_becomes_an_upload(ada: Caller, house: House, dataset_id: str) -> None:
    made = begin(ada, dataset_id)
    assert made.status_code == 201
    where = made.headers["Location"]
    assert made.headers["Tus-Resumable"] == "1.0.0"
    assert (made.json()["status"], made.json()["total_bytes"]) == ("receiving", len(BODY))
    for start, end in ((0, 100), (100, 5000), (5000, len(BODY))):
        assert offset_of(ada, where) == start
        answer = send(ada, where, start, BODY[start:end])
        assert (answer.status_code, answer.headers["Upload-Offset"]) == (204, str(end))
        assert answer.headers["Tus-Resumable"] == "1.0.0"
    upload, file, body = whole(house, made.json()["id"])
    assert (upload.status, upload.received_bytes) == (UploadStatus.RECEIVED, len(BODY))
    assert (file.path, file.size_bytes, file.sha256) == ("розы.zip", len(BODY), hashlib.sha256(BODY).hexdigest())
    assert body == BODY
    assert offset_of(ada, where) == len(BODY)  # for a client that has not heard the last answer
    assert send(ada, where, len(BODY), b"").status_code == 204
    assert whole(house, made.json()["id"])[0].received_bytes == len(BODY)


def test_the_metadata_is_given_back(ada: Caller, dataset_id: str) -> None:
    where = begin(ada, dataset_id, colour="röt").headers["Location"]
    answer = ada.client.head(where, headers=VERSION)
    assert answer.headers["Upload-Metadata"] == metadata(filename="розы.zip", dataset_id=dataset_id, colour="röt")
    assert answer.headers["Upload-Length"] == str(len(BODY))
    assert answer.headers["Cache-Control"] == "no-store"


def test_a_transfer_may_begin_with_its_bytes(ada: Caller, house: House, dataset_id: str) -> None:
    headers = {**VERSION, **PIECE, "Upload-Length": str(len(BODY))}
    headers["Upload-Metadata"] = metadata(filename="a.zip", dataset_id=dataset_id)
    half = ada.client.post(TUS, headers=headers, content=BODY[:300])
    assert (half.status_code, half.headers["Upload-Offset"]) == (201, "300")
    assert send(ada, half.headers["Location"], 300, BODY[300:]).status_code == 204
    assert whole(house, half.json()["id"])[2] == BODY
    at_once = ada.client.post(TUS, headers={**headers, **checksum(BODY)}, content=BODY)
    assert at_once.json()["status"] == "received"


def test_an_empty_file_is_whole_at_once(ada: Caller, dataset_id: str) -> None:
    assert begin(ada, dataset_id, size=0).json()["status"] == "received"


def test_several_files_make_one_upload(ada: Caller, dataset_id: str) -> None:
    opened = ada.client.post(f"/api/v1/datasets/{dataset_id}/uploads?complete=false").json()
    for name in ("a.zip", "b.zip"):
        made = begin(ada, dataset_id, size=4, name=name, upload_id=opened["id"])
        assert send(ada, made.headers["Location"], 0, b"abcd").status_code == 204
        assert made.json()["id"] == opened["id"]
    now = ada.client.post(f"/api/v1/uploads/{opened['id']}/complete").json()
    assert (now["status"], now["received_bytes"], now["total_bytes"]) == ("received", 8, 8)
    late = begin(ada, dataset_id, upload_id=opened["id"])
    assert late.status_code == 409
    other = ada.client.post("/api/v1/datasets", json={"name": "other"}).json()["id"]
    assert begin(ada, other, upload_id=opened["id"]).status_code == 422


@pytest.mark.parametrize("name", ["sha256", "sha1", "md5"])
def test_a_piece_with_its_checksum_is_taken(ada: Caller, dataset_id: str, name: str) -> None:
    where = begin(ada, dataset_id).headers["Location"]
    answer = send(ada, where, 0, BODY[:1000], **checksum(BODY[:1000], name))
    assert (answer.status_code, answer.headers["Upload-Offset"]) == (204, "1000")


def test_a_piece_with_another_checksum_is_thrown_away(ada: Caller, house: House, dataset_id: str) -> None:
    made = begin(ada, dataset_id)
    where = made.headers["Location"]
    assert send(ada, where, 0, BODY[:1000]).status_code == 204
    answer = send(ada, where, 1000, BODY[1000:2000], **checksum(BODY[1001:2001]))
    assert answer.status_code == 460
    assert answer.json()["title"] == "Checksum Mismatch"
    assert offset_of(ada, where) == 1000
    assert send(ada, where, 1000, BODY[1000:], **checksum(BODY[1000:])).status_code == 204
    assert whole(house, made.json()["id"])[2] == BODY


@pytest.mark.parametrize("header", ["crc32 AAAA", "sha256 not*base64", "sha256"])
def test_a_checksum_that_cannot_be_read_is_a_bad_request(ada: Caller, dataset_id: str, header: str) -> None:
    where = begin(ada, dataset_id).headers["Location"]
    answer = send(ada, where, 0, BODY, **{"Upload-Checksum": header})
    assert answer.status_code in ({400} if "sha256" not in header or "*" in header else {400, 460})
    assert offset_of(ada, where) == 0


def test_the_wrong_offset_is_a_conflict(ada: Caller, dataset_id: str) -> None:
    where = begin(ada, dataset_id).headers["Location"]
    assert send(ada, where, 0, BODY[:10]).status_code == 204
    for wrong in (0, 9, 11):
        answer = send(ada, where, wrong, b"x")
        assert answer.status_code == 409
        assert "byte 10" in answer.json()["detail"]
    assert send(ada, where, 10, BODY[10:]).status_code == 204


def test_more_bytes_than_announced_are_refused(ada: Caller, house: House, dataset_id: str) -> None:
    made = begin(ada, dataset_id, size=10)
    where = made.headers["Location"]
    assert send(ada, where, 0, b"x" * 11).status_code == 413
    chunked = ada.client.patch(
        where, content=iter([b"x" * 6, b"x" * 6]), headers={**VERSION, **PIECE, "Upload-Offset": "0"}
    )
    assert chunked.status_code == 413
    assert offset_of(ada, where) <= 10
    assert whole_status(house, made.json()["id"]) == UploadStatus.RECEIVING


def whole_status(house: House, upload_id: str) -> UploadStatus:
    with house.database.read() as session:
        return session.get_one(Upload, upload_id).status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 412),
        ({"Tus-Resumable": "0.2.2"}, 412),
        ({**VERSION}, 400),
        ({**VERSION, "Upload-Length": "-1"}, 400),
        ({**VERSION, "Upload-Length": "9" * 40}, 400),
        ({**VERSION, "Upload-Defer-Length": "1"}, 400),
        ({**VERSION, "Upload-Length": "10"}, 400),
        ({**VERSION, "Upload-Length": "10", "Upload-Metadata": "filename *"}, 400),
        ({**VERSION, "Upload-Length": "10", "Upload-Metadata": "filename AA==,filename AA=="}, 400),
        ({**VERSION, "Upload-Length": "10", "Upload-Metadata": metadata(filename="a.zip")}, 400),
        ({**VERSION, "Upload-Length": "10", "Upload-Metadata": metadata(filename="a.zip", dataset_id="0")}, 404),
        ({**VERSION, "Upload-Length": "10", "Upload-Metadata": "x " + "A" * 9000}, 400),
        (
            {**VERSION, "Upload-Length": "10000000001", "Upload-Metadata": metadata(filename="a.zip", dataset_id="0")},
            413,
        ),
        ({**VERSION, "Upload-Length": "30000001", "Upload-Metadata": metadata(filename="a.jpg", dataset_id="0")}, 413),
    ],
)
def test_a_beginning_that_cannot_be_is_refused_with_a_sentence(
    ada: Caller, headers: dict[str, str], status: int
) -> None:
    answer = ada.client.post(TUS, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"].endswith(".")
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    assert ("Tus-Version" in answer.headers) == (status == 412)


def test_a_piece_of_another_kind_is_refused(ada: Caller, dataset_id: str) -> None:
    where = begin(ada, dataset_id).headers["Location"]
    answer = send(ada, where, 0, BODY, **{"Content-Type": "application/zip"})
    assert answer.status_code == 415
    assert send(ada, where, 0, BODY, **{"Tus-Resumable": "2.0.0"}).status_code == 412
    assert offset_of(ada, where) == 0


def test_methods_may_travel_in_a_header(ada: Caller, dataset_id: str) -> None:
    where = begin(ada, dataset_id).headers["Location"]
    headers = {**VERSION, **PIECE, "Upload-Offset": "0", "X-HTTP-Method-Override": "PATCH"}
    assert ada.client.post(where, content=BODY[:7], headers=headers).headers["Upload-Offset"] == "7"
    assert ada.client.post(where, headers={**VERSION, "X-HTTP-Method-Override": "GET"}).status_code == 400
    gone = ada.client.post(where, headers={**VERSION, "X-HTTP-Method-Override": "DELETE"})
    assert gone.status_code == 204
    assert ada.client.head(where, headers=VERSION).status_code == 404


def test_somebody_elses_transfer_does_not_exist(ada: Caller, bob: Caller, dataset_id: str) -> None:
    where = begin(ada, dataset_id).headers["Location"]
    assert bob.client.head(where, headers=VERSION).status_code == 404
    assert send(bob, where, 0, BODY).status_code == 404
    assert bob.client.delete(where, headers=VERSION).status_code == 404
    assert begin(bob, dataset_id).status_code == 404
    assert offset_of(ada, where) == 0


def test_an_ended_transfer_leaves_nothing(ada: Caller, house: House, dataset_id: str) -> None:
    made = begin(ada, dataset_id)
    where = made.headers["Location"]
    send(ada, where, 0, BODY[:500])
    assert ada.client.delete(where, headers=VERSION).status_code == 204
    assert ada.client.get(f"/api/v1/uploads/{made.json()['id']}").status_code == 404
    assert not incoming_folder(house.settings, made.json()["id"]).exists()
    assert ada.client.delete(where, headers=VERSION).status_code == 404


def test_one_ended_file_of_several_leaves_the_others(ada: Caller, dataset_id: str) -> None:
    opened = ada.client.post(f"/api/v1/datasets/{dataset_id}/uploads?complete=false").json()
    first = begin(ada, dataset_id, name="a.zip", upload_id=opened["id"]).headers["Location"]
    second = begin(ada, dataset_id, name="b.zip", upload_id=opened["id"]).headers["Location"]
    send(ada, first, 0, BODY[:500])
    send(ada, second, 0, BODY)
    ada.client.delete(first, headers=VERSION)
    now = ada.client.get(f"/api/v1/uploads/{opened['id']}").json()
    assert (now["received_bytes"], now["total_bytes"]) == (len(BODY), len(BODY))
    ada.client.delete(second, headers=VERSION)  # whole already: only the transfer is forgotten
    assert ada.client.post(f"/api/v1/uploads/{opened['id']}/complete").json()["status"] == "received"


def test_an_abandoned_transfer_expires_and_is_removed(ada: Caller, house: House, dataset_id: str) -> None:
    made = begin(ada, dataset_id)
    where, upload_id = made.headers["Location"], made.json()["id"]
    said = parsedate_to_datetime(made.headers["Upload-Expires"])
    assert timedelta(hours=47) < said - utc_now() < timedelta(hours=49)
    send(ada, where, 0, BODY[:500])
    young = begin(ada, dataset_id)
    old = utc_now() - timedelta(hours=49)
    with house.database.write() as session:
        session.execute(update(Transfer).where(Transfer.upload_id == upload_id).values(expires_at=old))
        session.execute(update(Upload).values(created_at=old))
    answer = ada.client.head(where, headers=VERSION)
    assert answer.status_code == 410
    assert send(ada, where, 500, BODY[500:]).status_code == 410
    with house.database.write() as session:
        assert transfers.remove_abandoned(session, house.settings) == 1
    assert ada.client.head(where, headers=VERSION).status_code == 404
    assert not incoming_folder(house.settings, upload_id).exists()
    assert offset_of(ada, young.headers["Location"]) == 0


def test_an_upload_of_batches_that_nobody_goes_on_with_is_removed(ada: Caller, house: House, dataset_id: str) -> None:
    quiet, busy = (ada.client.post(f"/api/v1/datasets/{dataset_id}/uploads?complete=false").json()["id"] for _ in "ab")
    with house.database.write() as session:
        session.execute(update(Upload).values(created_at=utc_now() - timedelta(hours=49)))
    ada.client.post(f"/api/v1/uploads/{busy}/files", files=[("files", ("a/b.png", b"x"))])
    with house.database.write() as session:
        assert transfers.remove_abandoned(session, house.settings) == 1
    assert ada.client.get(f"/api/v1/uploads/{quiet}").status_code == 404
    assert ada.client.get(f"/api/v1/uploads/{busy}").status_code == 200


def test_bytes_that_are_gone_are_not_claimed(ada: Caller, house: House, dataset_id: str) -> None:
    made = begin(ada, dataset_id)
    where = made.headers["Location"]
    send(ada, where, 0, BODY[:500])
    file = incoming_folder(house.settings, made.json()["id"]) / where.rsplit("/", 1)[1]
    file.write_bytes(BODY[:499])
    assert ada.client.head(where, headers=VERSION).status_code == 410
    assert send(ada, where, 500, BODY[500:]).status_code == 410


def test_the_same_key_finds_the_same_transfer(ada: Caller, dataset_id: str) -> None:
    headers = {**VERSION, "Upload-Length": "10", "Idempotency-Key": "once"}
    headers["Upload-Metadata"] = metadata(filename="a.zip", dataset_id=dataset_id)
    first, second = (ada.client.post(TUS, headers=headers) for _ in range(2))
    assert first.headers["Location"] == second.headers["Location"]
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.headers["Tus-Resumable"] == "1.0.0"


# --- limits ---------------------------------------------------------------------------------------------------


@pytest.mark.both_databases
def test_a_quota_counts_pictures_and_uploads_of_one_person(settings: Settings, dataset_id: str, ada: Caller) -> None:
    web = create_app(settings.model_copy(update={"quota_bytes": 25_000}))
    house = web.state.house
    ada = caller(web, house, "ada")
    bob = caller(web, house, "bob")
    first = begin(ada, dataset_id, size=20_000)
    assert first.status_code == 201
    answer = begin(ada, dataset_id, size=6_000)
    assert answer.status_code == 413
    assert "allowed for one person" in answer.json()["detail"]
    form = ada.client.post(f"/api/v1/datasets/{dataset_id}/uploads", files=[("files", ("a/b.png", b"x" * 6_000))])
    assert form.status_code == 413
    his = bob.client.post("/api/v1/datasets", json={"name": "his"}).json()["id"]
    assert begin(bob, his, size=20_000).status_code == 201
    ada.client.delete(first.headers["Location"], headers=VERSION)
    assert begin(ada, dataset_id, size=6_000).status_code == 201
    house.queue.close()
    house.database.close()


@pytest.mark.parametrize("announced", [1, 10_000])
def test_files_beside_an_announced_one_count_towards_the_quota(
    settings: Settings, dataset_id: str, ada: Caller, announced: int
) -> None:
    web = create_app(settings.model_copy(update={"quota_bytes": 25_000}))
    house = web.state.house
    ada = caller(web, house, "ada")
    opened = ada.client.post(f"/api/v1/datasets/{dataset_id}/uploads?complete=false").json()["id"]

    def add(name: str, size: int) -> int:
        sent = [("files", (name, b"x" * size))]
        return int(ada.client.post(f"/api/v1/uploads/{opened}/files", files=sent).status_code)

    assert add("a/1.png", 6_000) == 200
    assert begin(ada, dataset_id, size=announced, upload_id=opened).status_code == 201
    assert ada.client.get(f"/api/v1/uploads/{opened}").json()["total_bytes"] == 6_000 + announced
    assert add("a/2.png", 8_000) == 200
    assert add("a/3.png", 12_000) == 413
    assert begin(ada, dataset_id, size=12_000).status_code == 413
    now = ada.client.get(f"/api/v1/uploads/{opened}").json()
    assert (now["received_bytes"], now["total_bytes"]) == (14_000, 14_000 + announced)
    house.queue.close()
    house.database.close()


@pytest.mark.both_databases
def test_transfers_that_are_announced_at_once_are_all_counted(ada: Caller, house: House, dataset_id: str) -> None:
    opened = ada.client.post(f"/api/v1/datasets/{dataset_id}/uploads?complete=false").json()["id"]
    new = transfers.NewTransfer(dataset_id, opened, "a.zip", 10)
    with house.database.read() as stale:
        before = stale.get_one(Upload, opened)
        stale.expunge(before)
    with house.database.write() as session:
        transfers.open_transfer(session, house.settings, ada.user.id, new)
    with house.database.write() as session:
        session.add(before)  # as a request that read it a moment earlier
        transfers.open_transfer(session, house.settings, ada.user.id, new)
    assert ada.client.get(f"/api/v1/uploads/{opened}").json()["total_bytes"] == 20


def test_bytes_stay_when_their_end_is_not_written(ada: Caller, house: House, dataset_id: str) -> None:
    opened = ada.client.post(f"/api/v1/datasets/{dataset_id}/uploads?complete=false").json()["id"]
    among = begin(ada, dataset_id, upload_id=opened).headers["Location"]
    alone = begin(ada, dataset_id).headers["Location"]
    for where in (among, alone):
        send(ada, where, 0, BODY[:500])
        transfer_id = where.rsplit("/", 1)[1]
        with pytest.raises(RuntimeError), house.database.write() as session:
            transfer = transfers.find_transfer(session, ada.user.id, transfer_id)
            transfers.end_transfer(session, house.settings, transfer)
            raise RuntimeError("the disk of the database is full")
        assert offset_of(ada, where) == 500
        assert send(ada, where, 500, BODY[500:]).status_code == 204


def test_the_disk_reserve_is_not_touched(settings: Settings, dataset_id: str, ada: Caller) -> None:
    where = begin(ada, dataset_id).headers["Location"]
    web = create_app(settings.model_copy(update={"disk_reserve_bytes": 1 << 60}))
    house = web.state.house
    ada = caller(web, house, "ada")
    assert begin(ada, dataset_id).status_code == 507
    assert send(ada, where, 0, BODY).status_code == 507
    assert offset_of(ada, where) == 0
    house.queue.close()
    house.database.close()
