"""Answers questions with SQLite: tables and SELECTs come in as JSON, rows go out as JSON.

in   {"tables": {name: {"columns": [name], "rows": [[value]]}}, "questions": [sql]}
out  [[[value]]]     for each question its rows
"""

import json
import sqlite3
import sys

asked = json.load(sys.stdin)
database = sqlite3.connect(":memory:")
for name, table in asked["tables"].items():
    # Columns without a type: each value keeps its own.
    database.execute(f"CREATE TABLE {name} ({', '.join(table['columns'])})")
    places = ", ".join("?" * len(table["columns"]))
    database.executemany(f"INSERT INTO {name} VALUES ({places})", table["rows"])
answers = []
for question in asked["questions"]:
    try:
        answers.append(database.execute(question).fetchall())
    except sqlite3.Error as error:
        sys.exit(f"{error}: {question}")
json.dump(answers, sys.stdout)
