/** The worker that moves a database's log into the database: its own connection, so that the daemon's is never blocked. */
import { DatabaseSync } from "node:sqlite";
import { parentPort, workerData } from "node:worker_threads";

const database = new DatabaseSync(workerData as string, { timeout: 1_000 });
// PASSIVE never waits for readers or writers, and fsyncs log and database in the order that a power cut needs.
parentPort?.on("message", () => database.exec("PRAGMA wal_checkpoint(PASSIVE)"));
