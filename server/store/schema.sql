-- Schema, version 1. seq: row number that is never reused, so that paging goes on after a deleted id.
-- Times are Unix seconds; 0 or NULL: never. JSON is stored as text.
CREATE TABLE keys (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,           -- key_…
  name TEXT NOT NULL,                -- for people
  prefix TEXT NOT NULL,              -- 8 characters of the key, to recognise it by
  digest BLOB NOT NULL UNIQUE,       -- SHA-256 of the whole key
  scopes INTEGER NOT NULL,           -- bits: 1 read, 2 infer, 4 train, 8 admin
  created_at INTEGER NOT NULL,
  last_used_at INTEGER NOT NULL DEFAULT 0,
  expires_at INTEGER NOT NULL DEFAULT 0,
  revoked_at INTEGER
) STRICT;

CREATE TABLE files (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,           -- file-…
  filename TEXT NOT NULL,            -- base name as the client gave it; never a path
  purpose TEXT NOT NULL,
  sha256 TEXT NOT NULL,              -- blob
  bytes INTEGER NOT NULL,
  status TEXT NOT NULL,              -- uploaded, processed, error
  status_details TEXT,
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL DEFAULT 0,
  deleted_at INTEGER                 -- tombstone
) STRICT;
CREATE INDEX files_sha256 ON files(sha256) WHERE deleted_at IS NULL;

CREATE TABLE images (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,           -- img_…
  sha256 TEXT NOT NULL,              -- blob
  format TEXT NOT NULL,              -- png, jpeg, webp
  filename TEXT NOT NULL DEFAULT '',
  width INTEGER NOT NULL,            -- pixels, as in the header
  height INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  deleted_at INTEGER
) STRICT;
CREATE UNIQUE INDEX images_sha256 ON images(sha256) WHERE deleted_at IS NULL;

CREATE TABLE datasets (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,           -- ds_…
  name TEXT NOT NULL,
  status TEXT NOT NULL,              -- ready, error
  format TEXT NOT NULL,              -- vlm_r1, openai, mixed
  file_id TEXT,                      -- files.id of the rewritten rows
  counts TEXT NOT NULL,              -- JSON object
  errors TEXT NOT NULL,              -- JSON array
  created_at INTEGER NOT NULL,
  deleted_at INTEGER
) STRICT;
CREATE TABLE dataset_images (
  dataset_id TEXT NOT NULL,
  name TEXT NOT NULL,                -- file name in the rows
  image_id TEXT NOT NULL,
  PRIMARY KEY (dataset_id, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX dataset_images_image ON dataset_images(image_id);

CREATE TABLE models (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL,                  -- name; may be used again after a deletion
  folder TEXT NOT NULL,              -- below the data folder
  parent TEXT,                       -- NULL: base model
  job_id TEXT,
  family TEXT NOT NULL,
  adapter TEXT,
  owned_by TEXT NOT NULL,
  sha256 TEXT NOT NULL,
  info TEXT NOT NULL,                -- JSON object
  step INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  context_length INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  deleted_at INTEGER
) STRICT;
CREATE UNIQUE INDEX models_id ON models(id) WHERE deleted_at IS NULL;

CREATE TABLE jobs (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,           -- ftjob-…
  status TEXT NOT NULL,
  model TEXT NOT NULL,
  training_file TEXT NOT NULL,
  validation_file TEXT,
  spec TEXT NOT NULL,                -- JSON as asked for
  resolved TEXT,                     -- JSON with every value decided
  metadata TEXT NOT NULL DEFAULT '{}',
  error TEXT,                        -- JSON
  fine_tuned_model TEXT,
  result_file TEXT,
  progress TEXT NOT NULL DEFAULT '{}',
  key_id TEXT NOT NULL DEFAULT '',
  created_at INTEGER NOT NULL,
  started_at INTEGER NOT NULL DEFAULT 0,
  finished_at INTEGER NOT NULL DEFAULT 0,
  paused_at INTEGER NOT NULL DEFAULT 0,
  step INTEGER NOT NULL DEFAULT 0,
  total_steps INTEGER NOT NULL DEFAULT 0,
  trained_tokens INTEGER NOT NULL DEFAULT 0,
  checkpoint_step INTEGER NOT NULL DEFAULT 0,
  attempts INTEGER NOT NULL DEFAULT 0,
  priority INTEGER NOT NULL DEFAULT 0,
  eta_seconds REAL NOT NULL DEFAULT -1
) STRICT;
CREATE INDEX jobs_status ON jobs(status);

CREATE TABLE events (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, -- id of the server-sent event
  id TEXT NOT NULL UNIQUE,           -- ftevent-…
  job_id TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  level TEXT NOT NULL,
  type TEXT NOT NULL,
  message TEXT NOT NULL,
  data TEXT,                         -- JSON
  step INTEGER NOT NULL DEFAULT -1   -- of metrics events; -1: none
) STRICT;
CREATE INDEX events_job ON events(job_id, seq);

CREATE TABLE metrics (
  job_id TEXT NOT NULL,
  step INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  metric_values TEXT NOT NULL,       -- JSON object
  PRIMARY KEY (job_id, step)
) STRICT, WITHOUT ROWID;

CREATE TABLE groups (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,           -- grp_…
  job_id TEXT NOT NULL,
  step INTEGER NOT NULL,
  place INTEGER NOT NULL,            -- of the group in its step
  row_id TEXT NOT NULL,
  data TEXT NOT NULL,                -- JSON object
  reward_mean REAL NOT NULL,
  reward_std REAL NOT NULL,
  created_at INTEGER NOT NULL,
  UNIQUE (job_id, step, place)
) STRICT;
CREATE TABLE samples (
  id TEXT NOT NULL PRIMARY KEY,      -- smp_…
  group_id TEXT NOT NULL,
  place INTEGER NOT NULL,
  data TEXT NOT NULL                 -- JSON object
) STRICT, WITHOUT ROWID;
CREATE INDEX samples_group ON samples(group_id, place);

CREATE TABLE checkpoints (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,           -- ftckpt_…
  job_id TEXT NOT NULL,
  model TEXT NOT NULL,               -- servable name; '' none
  folder TEXT NOT NULL,              -- below the data folder
  metrics TEXT NOT NULL,             -- JSON object
  sha256 TEXT NOT NULL,
  step INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  deleted_at INTEGER
) STRICT;
CREATE INDEX checkpoints_job ON checkpoints(job_id, seq);

CREATE TABLE idempotency (
  key_id TEXT NOT NULL,              -- caller
  route TEXT NOT NULL,
  key TEXT NOT NULL,                 -- Idempotency-Key
  body_sha256 TEXT NOT NULL,
  resource TEXT NOT NULL,            -- id of what the first request made
  created_at INTEGER NOT NULL,
  PRIMARY KEY (key_id, route, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE evaluations (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,           -- eval_…
  status TEXT NOT NULL,
  model TEXT NOT NULL,
  file_id TEXT NOT NULL,
  spec TEXT NOT NULL,                -- JSON
  result TEXT,                       -- JSON
  error TEXT,                        -- JSON
  key_id TEXT NOT NULL DEFAULT '',
  created_at INTEGER NOT NULL,
  started_at INTEGER NOT NULL DEFAULT 0,
  finished_at INTEGER NOT NULL DEFAULT 0,
  attempts INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE evaluation_rows (
  evaluation_id TEXT NOT NULL,
  place INTEGER NOT NULL,            -- of the row in the result, from 0
  data TEXT NOT NULL,                -- JSON object
  PRIMARY KEY (evaluation_id, place)
) STRICT, WITHOUT ROWID;
