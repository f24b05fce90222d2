"""A tiny writer of torch's two file formats, from their description and not from our reader; needs no torch.

Pickle fragments are bytes, so that a test can also put together what torch never would.
"""

import io
import pickle
import struct
import zipfile

import numpy as np

KINDS = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "float64": "DoubleStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


def text(value):
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value):
    """LONG1: signed, little-endian, of any size up to 255 bytes."""
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def tuple_of(*items):
    return b"(" + b"".join(items) + b"t"


def name(module, attribute):
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def storage(key, kind, length):
    return tuple_of(text("storage"), name("torch", kind), text(key), text("cpu"), length) + b"Q"


def tensor(key, kind, length, size, stride=None, offset=0):
    """_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, backward_hooks)."""
    if stride is None:
        stride = [int(np.prod(size[i + 1 :])) for i in range(len(size))]
    arguments = (
        storage(key, kind, number(length)),
        number(offset),
        tuple_of(*map(number, size)),
        tuple_of(*map(number, stride)),
        b"\x89",
        name("collections", "OrderedDict") + b")R",
    )
    return name("torch._utils", "_rebuild_tensor_v2") + tuple_of(*arguments) + b"R"


def mapping(items):
    """A dict from fragments by name."""
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def zip_file(body, storages, *, byteorder=b"little", compression=zipfile.ZIP_STORED):
    """Bytes of the zip format: `body` is the pickle without its frame, storages are bytes by key."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr("archive/byteorder", byteorder)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def legacy_file(body, storages, *, lengths=None, little_endian=True):
    """Bytes of the format before; `lengths` are the numbers of elements that it claims."""
    head = [
        0x1950A86A20F9469CFC6C,
        1001,
        {"little_endian": little_endian, "protocol_version": 1001},
    ]
    parts = [pickle.dumps(value, 2) for value in head]
    parts += [b"\x80\x02" + body + b".", pickle.dumps(list(storages), 2)]
    for key, data in storages.items():
        parts.append(struct.pack("<q", (lengths or {}).get(key, len(data) // 4)) + data)
    return b"".join(parts)


CONTAINERS = {"zip": zip_file, "legacy": legacy_file}


def state_dict_file(arrays, container="zip", wrapper=""):
    """What torch.save of a state dict (below `wrapper`) gives: each array in a storage of its own."""
    keys = {key: str(i) for i, key in enumerate(arrays)}
    body = mapping(
        {k: tensor(keys[k], KINDS[str(v.dtype)], v.size, v.shape) for k, v in arrays.items()}
    )
    if wrapper:
        body = mapping({wrapper: body, "epoch": number(3)})
    storages = {keys[k]: np.ascontiguousarray(v).tobytes() for k, v in arrays.items()}
    lengths = {keys[k]: v.size for k, v in arrays.items()}
    extra = {"lengths": lengths} if container == "legacy" else {}
    return CONTAINERS[container](body, storages, **extra)
