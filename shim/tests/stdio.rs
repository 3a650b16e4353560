//! Standard input and output of real containers: logs, FIFOs, terminals, attached clients.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Attached, Shim, runtimes};
use rrun_task_api::pb::{shim, task};
use rrun_task_api::stdio::Stream;
use rrun_tests::{Need, require, wait_until};
use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

fn end(shim: Shim) {
    shim.kill(9).unwrap();
    assert_eq!(shim.wait(""), 137);
    shim.finish();
}

#[test]
fn an_exec_has_all_three_streams_and_its_exit_code() {
    require!(Need::Root);
    for runtime in runtimes() {
        let shim = Shim::start(&runtime, &["sleep", "1000"]);
        shim.run();
        let script = "cat; echo error >&2; exit 9";
        let (id, mut attached) = shim.exec(&["sh", "-c", script], true, false);
        let text = "x".repeat(300_000);
        let mut sender = Attached(attached.0.try_clone().unwrap());
        let copy = text.clone();
        let sending = std::thread::spawn(move || {
            for chunk in copy.as_bytes().chunks(50_000) {
                sender.send(chunk);
            }
            sender.send(b"");
        });
        let (out, err) = attached.read_to_end();
        sending.join().unwrap();
        assert_eq!(out.len(), text.len());
        assert_eq!(err, b"error\n");
        assert_eq!(shim.wait(&id), 9);
        assert_eq!(shim.delete(&id).unwrap().exit_status, 9);
        end(shim);
    }
}

#[test]
fn an_execs_output_waits_for_its_reader_and_none_is_lost() {
    require!(Need::Root);
    let shim = Shim::start(&runtimes()[0], &["sleep", "1000"]);
    shim.run();
    let script = "dd if=/dev/zero bs=1000 count=3000 2>/dev/null";
    let (id, mut attached) = shim.exec(&["sh", "-c", script], false, false);
    std::thread::sleep(Duration::from_millis(300));
    let (out, _) = attached.read_to_end();
    assert_eq!(out.len(), 3_000_000);
    assert_eq!(shim.wait(&id), 0);
    shim.delete(&id).unwrap();
    end(shim);
}

#[test]
fn an_exec_with_a_terminal_has_its_first_size_and_is_resized() {
    require!(Need::Root);
    for runtime in runtimes() {
        let shim = Shim::start(&runtime, &["sleep", "1000"]);
        shim.run();
        let script = "tty; read x; echo got $x";
        let (id, mut attached) = shim.exec(&["sh", "-c", script], true, true);
        let resize = task::ResizePtyRequest {
            id: shim.id.clone(),
            exec_id: id.clone(),
            width: 100,
            height: 40,
        };
        shim.call(shim.client.resize_pty(&resize)).unwrap();
        attached.send(b"me\n");
        let (out, err) = attached.read_to_end();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains("/dev/pts/") && text.contains("got me"),
            "{text:?}"
        );
        assert!(err.is_empty());
        assert_eq!(shim.wait(&id), 0);
        shim.delete(&id).unwrap();
        end(shim);
    }
}

#[test]
fn a_container_with_a_terminal_is_logged_and_attached_to() {
    require!(Need::Root);
    for runtime in runtimes() {
        let shim = Shim::start_with(&runtime, &["cat"], |bundle| {
            bundle.config["process"]["terminal"] = true.into();
        });
        let mut request = shim.create_request();
        request.terminal = true;
        request.stdin = "attach:".into();
        request.stderr = String::new();
        shim.run_as(&request);
        let attach = shim::AttachRequest {
            id: shim.id.clone(),
            stdin: true,
            stdout: true,
            ..Default::default()
        };
        let answer = shim.call(shim.client.attach(&attach)).unwrap();
        assert!(answer.terminal);
        let mut attached = Attached::to(&answer.path);
        attached.send(b"hello\n");
        let mut seen = String::new();
        while seen.matches("hello").count() < 2 {
            let (stream, data) = attached.frame().unwrap();
            assert_eq!(stream, Stream::Stdout);
            seen.push_str(&String::from_utf8(data).unwrap());
        }
        wait_until("the log", LIMIT, || shim.log().len() == 2);
        assert_eq!(shim.log()[1], "stdout F hello\r");
        end(shim);
    }
}

#[test]
fn a_stuck_client_does_not_stop_a_logged_container() {
    require!(Need::Root);
    let script = "read x; dd if=/dev/zero bs=1000 count=8000 2>/dev/null | sed 's/.*/x/'; \
                  yes line | head -n 200000; echo done";
    let shim = Shim::start(&runtimes()[0], &["sh", "-c", script]);
    let mut request = shim.create_request();
    request.stdin = "attach:".into();
    shim.run_as(&request);
    let attach = shim::AttachRequest {
        id: shim.id.clone(),
        stdin: true,
        stdout: true,
        ..Default::default()
    };
    let answer = shim.call(shim.client.attach(&attach)).unwrap();
    let mut stuck = Attached::to(&answer.path);
    stuck.send(b"go\n");
    // It never reads, and the container ends all the same.
    assert_eq!(shim.wait(""), 0);
    assert_eq!(shim.log().last().unwrap(), "stdout F done");
    shim.finish();
}

#[test]
fn nothing_is_lost_or_doubled_over_a_log_rotation() {
    require!(Need::Root);
    let script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo $i; done";
    let shim = Shim::start(&runtimes()[0], &["sh", "-c", script]);
    shim.run();
    let rotated = shim.dir.join("rotated.log");
    wait_until("some log", LIMIT, || shim.log().len() > 100);
    fs::rename(shim.log_path(), &rotated).unwrap();
    let request = shim::ReopenLogRequest {
        id: shim.id.clone(),
        ..Default::default()
    };
    shim.call(shim.client.reopen_log(&request)).unwrap();
    let first = fs::read_to_string(&rotated).unwrap();
    assert_eq!(shim.wait(""), 0);
    assert_eq!(
        first,
        fs::read_to_string(&rotated).unwrap(),
        "written to after the answer"
    );
    let both = first + &fs::read_to_string(shim.log_path()).unwrap();
    let numbers: Vec<u32> = both
        .lines()
        .map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
        .collect();
    assert!(numbers.iter().copied().eq(1..=20_000));
    shim.finish();
}

#[test]
fn a_flood_is_limited_and_the_log_says_how_much_is_missing() {
    require!(Need::Root);
    let script = "yes 0123456789 | head -n 100000; sleep 1; echo last";
    let shim = Shim::start(&runtimes()[0], &["sh", "-c", script]);
    let mut request = shim.create_request();
    request.stdout.push_str("?rate=10000&burst=20000");
    request.stderr = String::new();
    shim.run_as(&request);
    assert_eq!(shim.wait(""), 0);
    let log = shim.log();
    assert!(log.len() < 10_000, "{} lines", log.len());
    let dropped = shim.status().log_dropped;
    assert!(dropped > 500_000, "{dropped}");
    assert!(
        log.iter()
            .any(|line| line.contains("bytes of log dropped here")),
        "{log:?}"
    );
    assert_eq!(log.last().unwrap(), "stdout F last");
    shim.finish();
}

fn make_fifo(path: PathBuf) -> PathBuf {
    let status = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(status.success());
    path
}

#[test]
fn a_fifo_outlives_its_reader() {
    require!(Need::Root);
    let script = "i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo $i; sleep 0.01; done; exit 5";
    let shim = Shim::start(&runtimes()[0], &["sh", "-c", script]);
    let fifo = make_fifo(shim.dir.join("out"));
    let mut request = shim.create_request();
    request.stdout = fifo.display().to_string();
    request.stderr = String::new();
    shim.run_as(&request);
    let mut reader = fs::File::open(&fifo).unwrap();
    let mut byte = [0];
    reader.read_exact(&mut byte).unwrap();
    drop(reader);
    std::thread::sleep(Duration::from_millis(100));
    // The reader comes back and reads to the end; the process did not die of it.
    let mut rest = String::new();
    fs::File::open(&fifo)
        .unwrap()
        .read_to_string(&mut rest)
        .unwrap();
    assert!(rest.ends_with("100\n"), "{rest:?}");
    assert_eq!(shim.wait(""), 5);
    shim.finish();
}

#[test]
fn the_end_of_a_stdin_fifo_is_passed_on() {
    require!(Need::Root);
    for by_request in [false, true] {
        let shim = Shim::start(&runtimes()[0], &["cat"]);
        let fifo = make_fifo(shim.dir.join("in"));
        let mut request = shim.create_request();
        request.stdin = fifo.display().to_string();
        shim.run_as(&request);
        let mut writer = fs::OpenOptions::new()
            .read(by_request)
            .write(true)
            .open(&fifo)
            .unwrap();
        writer
            .write_all("line of input\n".repeat(10_000).as_bytes())
            .unwrap();
        if by_request {
            // The writer stays; the request alone closes.
            let close = task::CloseIoRequest {
                id: shim.id.clone(),
                stdin: true,
                ..Default::default()
            };
            shim.call(shim.client.close_io(&close)).unwrap();
            assert_eq!(shim.wait(""), 0);
        } else {
            drop(writer);
            assert_eq!(shim.wait(""), 0);
        }
        assert_eq!(shim.log().len(), 10_000);
        shim.finish();
    }
}

#[test]
fn output_goes_to_a_file_as_it_is() {
    require!(Need::Root);
    let shim = Shim::start(&runtimes()[0], &["sh", "-c", "echo one; echo two >&2"]);
    let file = shim.dir.join("plain");
    let mut request = shim.create_request();
    request.stdout = format!("file://{}", file.display());
    request.stderr.clone_from(&request.stdout);
    shim.run_as(&request);
    assert_eq!(shim.wait(""), 0);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text == "one\ntwo\n" || text == "two\none\n", "{text:?}");
    shim.finish();
}

#[test]
fn a_logging_program_gets_both_streams_and_the_ids() {
    require!(Need::Root);
    let shim = Shim::start(&runtimes()[0], &["sh", "-c", "echo one; echo two >&2"]);
    let logger = shim.dir.join("logger");
    let script = "#!/bin/sh\nexec 5>&-\n{ echo \"$CONTAINER_ID $CONTAINER_NAMESPACE $2\"; \
                  cat <&3; cat <&4; } > \"$1\"\n";
    rrun_tests::write_script(&logger, script);
    let logged = shim.dir.join("logged");
    let mut request = shim.create_request();
    request.stdout = format!("binary://{}?{}=more", logger.display(), logged.display());
    request.stderr.clone_from(&request.stdout);
    shim.run_as(&request);
    assert_eq!(shim.wait(""), 0);
    let expected = format!("{} test more\none\ntwo\n", shim.id);
    wait_until("the log", LIMIT, || {
        fs::read_to_string(&logged).unwrap_or_default() == expected
    });
    shim.finish();
}

#[test]
fn what_an_exec_left_running_does_not_hold_its_stream_open() {
    require!(Need::Root);
    let shim = Shim::start(&runtimes()[0], &["sleep", "1000"]);
    shim.run();
    let (id, mut attached) = shim.exec(&["sh", "-c", "sleep 500 & echo hi"], false, false);
    assert_eq!(shim.wait(&id), 0);
    assert_eq!(attached.read_to_end().0, b"hi\n");
    shim.delete(&id).unwrap();
    end(shim);
}
