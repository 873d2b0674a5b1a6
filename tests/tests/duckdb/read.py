"""read.py FILE QUERY: what a reader of another make finds in a DuckDB file, as PostgreSQL would print it, in JSON."""

import json
import sys
from decimal import Decimal
from uuid import UUID

import duckdb

# DuckDB's own text of these is PostgreSQL's; Python has no infinite dates, and no year 10000.
BY_TEXT = {"DATE", "TIME", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "INTERVAL"}


def text(value, kind):
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, float):
        return number(value, kind)
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, (int, UUID)):
        return str(value)
    raise TypeError(f"{type(value)} of {kind}")


def number(value, kind):
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    shortest = repr(value)
    if kind == "FLOAT":
        # Python has none of its own: the fewest digits that lead to the same one.
        import struct

        bits = struct.unpack("I", struct.pack("f", abs(value)))[0]
        beside = [struct.unpack("f", struct.pack("I", bits + step))[0] for step in (-1, 1) if bits + step >= 0]
        beside = [2 * abs(value) - beside[0] if other == float("inf") else other for other in beside]
        for digits in range(1, 10):
            shortest = f"{value:.{digits}g}"
            said = abs(float(shortest))
            # What lies half way to another one does not lead to it, as PostgreSQL sees it.
            if all(abs(said - abs(value)) < abs(said - other) for other in beside):
                break
    sign, digits, exponent = Decimal(shortest).as_tuple()
    mantissa = "".join(map(str, digits)).lstrip("0")
    exponent += len(mantissa) - 1 if mantissa else 0
    mantissa = mantissa.rstrip("0")
    minus = "-" if sign else ""
    if not mantissa:
        return minus + "0"
    limit = 6 if kind == "FLOAT" else 15
    if exponent < -4 or exponent >= limit:
        rest = "." + mantissa[1:] if len(mantissa) > 1 else ""
        return f"{minus}{mantissa[0]}{rest}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    if exponent < 0:
        return f"{minus}0.{'0' * (-exponent - 1)}{mantissa}"
    whole = mantissa[: exponent + 1].ljust(exponent + 1, "0")
    rest = mantissa[exponent + 1 :]
    return f"{minus}{whole}{'.' + rest if rest else ''}"


def main():
    file, query = sys.argv[1:]
    with duckdb.connect(file, read_only=True) as reader:
        reader.execute("SET TimeZone = 'UTC'")
        kinds = [(row[0], row[1]) for row in reader.execute(f"DESCRIBE {query}").fetchall()]
        columns = [
            f"CAST(#{place} AS VARCHAR)" if kind in BY_TEXT else f"#{place}"
            for place, (_, kind) in enumerate(kinds, start=1)
        ]
        rows = reader.execute(f"SELECT {', '.join(columns)} FROM ({query})").fetchall()
    found = [[text(value, kind) for value, (_, kind) in zip(row, kinds)] for row in rows]
    json.dump(found, sys.stdout)


main()
