"""The tables of the queue's database, and how each former version of them becomes the next. Used by graced.store.tasks.

What was released never changes: a new version is one more script at the end.
"""

from __future__ import annotations

MIGRATIONS = (
    """
    CREATE TABLE boot (id INTEGER PRIMARY KEY, boot_id TEXT NOT NULL UNIQUE, offset_us INTEGER NOT NULL);
    CREATE TABLE head (
      one INTEGER PRIMARY KEY CHECK (one = 1), next_task INTEGER NOT NULL, last_us INTEGER NOT NULL
    );
    INSERT INTO head VALUES (1, 1, 0);
    CREATE TABLE task (
      id INTEGER PRIMARY KEY,
      state INTEGER NOT NULL,
      priority INTEGER NOT NULL,
      rank INTEGER NOT NULL,
      attempts INTEGER NOT NULL,
      failures INTEGER NOT NULL,
      max_attempts INTEGER NOT NULL,
      parent INTEGER,
      open_children INTEGER NOT NULL,
      on_child_failure INTEGER NOT NULL,
      handler TEXT NOT NULL,
      task_type TEXT NOT NULL,
      origin TEXT NOT NULL,
      intent_id TEXT,
      idempotency_key TEXT,
      sla_seconds INTEGER NOT NULL,
      created_us INTEGER NOT NULL,
      created_wall_us INTEGER NOT NULL,
      deadline_wall_us INTEGER NOT NULL,
      deadline_boot INTEGER NOT NULL,
      deadline_boottime_us INTEGER NOT NULL,
      not_before_us INTEGER,
      sla_state INTEGER NOT NULL,
      sla_next_us INTEGER,
      worker TEXT,
      started_us INTEGER,
      finished_us INTEGER,
      context TEXT NOT NULL,
      reasoning TEXT,
      error TEXT,
      result TEXT
    );
    CREATE INDEX task_queue ON task (handler, rank) WHERE state = 0;
    CREATE INDEX task_waiting ON task (not_before_us) WHERE state = 1 AND not_before_us IS NOT NULL;
    CREATE INDEX task_leased ON task (state) WHERE state = 2;
    CREATE INDEX task_sla ON task (sla_next_us) WHERE sla_next_us IS NOT NULL;
    CREATE INDEX task_parent ON task (parent) WHERE parent IS NOT NULL;
    CREATE INDEX task_finished ON task (state, finished_us) WHERE finished_us IS NOT NULL;
    CREATE UNIQUE INDEX task_idempotency ON task (idempotency_key) WHERE idempotency_key IS NOT NULL AND state < 3;
    CREATE TABLE task_event (
      task INTEGER NOT NULL, at_us INTEGER NOT NULL, kind TEXT NOT NULL, attempt INTEGER NOT NULL, detail TEXT,
      PRIMARY KEY (task, at_us)
    ) WITHOUT ROWID;
    CREATE TABLE tally (
      handler TEXT NOT NULL, origin TEXT NOT NULL, priority INTEGER NOT NULL, state INTEGER NOT NULL,
      n INTEGER NOT NULL,
      PRIMARY KEY (handler, origin, priority, state)
    ) WITHOUT ROWID;
    """,
    """
    ALTER TABLE task ADD COLUMN failed_children INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE task ADD COLUMN done_children INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE task ADD COLUMN progress TEXT;
    CREATE INDEX task_family ON task (id) WHERE state = 1 AND not_before_us IS NULL;
    CREATE TABLE handler_mode (
      handler TEXT PRIMARY KEY, mode TEXT NOT NULL, reason TEXT NOT NULL, set_by TEXT NOT NULL,
      since_us INTEGER NOT NULL
    ) WITHOUT ROWID;
    """,
    # What a row says by itself is not stored a second time: most tasks have no event of their own.
    """
    DELETE FROM task_event WHERE kind IN ('submitted', 'completed') OR kind = 'leased' AND EXISTS (
      SELECT 1 FROM task WHERE id = task AND attempts = attempt AND state IN (2, 3)
    );
    CREATE VIEW task_history AS
      SELECT task, at_us, kind, attempt, detail FROM task_event
      UNION ALL SELECT id, created_us, 'submitted', 0, NULL FROM task
      UNION ALL SELECT id, started_us, 'leased', attempts, worker FROM task
        WHERE state IN (2, 3) AND started_us IS NOT NULL
      UNION ALL SELECT id, finished_us, 'completed', attempts, NULL FROM task WHERE state = 3;
    """,
    # The same rows as before: finished_us is set exactly while a task has ended. But a lease does not change it, and so
    # leaves this index, the dearest one, alone.
    """
    DROP INDEX task_idempotency;
    CREATE UNIQUE INDEX task_idempotency ON task (idempotency_key)
      WHERE idempotency_key IS NOT NULL AND finished_us IS NULL;
    """,
    # Which turns of the redo log (graced.store.durable) are in here, and which file that log is.
    """
    ALTER TABLE head ADD COLUMN redo_seq INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE head ADD COLUMN redo_place INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE head ADD COLUMN redo_id TEXT;
    """,
)
