//! `tcpauth verify FILE.pcap`: whether every segment of a capture verifies.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use crate::capture::{
    AgreedKeys, CaptureError, Examined, Failure, Frames, KeyLogError, Summary, Timestamp, Verdict, Verifier,
};
use crate::config::{Config, ConfigErrors};
use crate::instance::Instance;

/// Arguments of `tcpauth verify`.
#[derive(clap::Args)]
pub struct VerifyArgs {
    /// The capture: pcap or pcapng, from either router or between them
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The configuration of either router, if it is not the instance's
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Agreed keys, as `tcpauthd --key-log` wrote them on either router; repeatable
    #[arg(long, value_name = "FILE")]
    pub key_log: Vec<PathBuf>,
    /// Print one line a segment
    #[arg(long)]
    pub verbose: bool,
}

/// Verifies every segment to or from a configured neighbour. Prints the summary line, or one line a segment if
/// that was asked for and the summary on standard error; as JSON, one object a line.
///
/// Success if there were segments and all verified; exit code 1 if not, 2 if a file cannot be used.
pub fn run(args: &VerifyArgs, instance: &Instance, json: bool) -> ExitCode {
    let config = args.config.clone().unwrap_or_else(|| instance.config_file());
    let mut lines = Lines { out: BufWriter::new(io::stdout().lock()), is_open: true, json };
    match verify(args, &config, args.verbose.then_some(&mut lines)) {
        Ok(outcome) => {
            if !args.verbose {
                lines.summary(&outcome.summary);
            }
            let closed = lines.finish();
            if args.verbose {
                eprintln!("{}", outcome.summary);
            }
            eprint!("{}", outcome.explanation(&config));
            match (closed, outcome.summary.is_good()) {
                (Err(error), _) => {
                    eprintln!("tcpauth: cannot write the output: {error}");
                    ExitCode::from(UNUSABLE)
                }
                (Ok(()), true) => ExitCode::SUCCESS,
                (Ok(()), false) => ExitCode::FAILURE,
            }
        }
        Err(error) => {
            // What was printed before stays visible above the error.
            let _ = lines.finish();
            eprintln!("{error}");
            ExitCode::from(UNUSABLE)
        }
    }
}

/// Why nothing can be said of a capture.
#[derive(Debug, thiserror::Error)]
enum VerifyError {
    /// The capture file.
    #[error("{}: {error}", path.display())]
    Capture { path: PathBuf, error: CaptureError },
    /// The configuration, whose errors name the file.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The agreed keys, whose errors name the file.
    #[error(transparent)]
    KeyLog(#[from] KeyLogError),
}

/// What became of a capture.
struct Outcome {
    summary: Summary,
    /// The frame in which each failure came first.
    first: BTreeMap<Failure, u64>,
    /// The frame of the first segment without option.
    first_without_option: Option<u64>,
}

impl Outcome {
    /// For people: what failed first where, or why there was nothing to verify.
    fn explanation(&self, config: &Path) -> String {
        if self.summary.segments == 0 {
            return format!(
                "no TCP segment to or from a neighbour of {} is in the capture: \
                 are the neighbour's address and `port` those of the connection?\n",
                config.display()
            );
        }
        let failed = self.summary.failed.iter().map(|(failure, count)| {
            let first = self.first.get(failure).copied().unwrap_or_default();
            format!("failed {count}: {failure} (first in frame {first})\n")
        });
        let without_option = self.first_without_option.map(|first| {
            let count = self.summary.without_option;
            format!(
                "without option {count} (first in frame {first}): its sender does not sign, or the capture was \
                 made on `any` or on tcpauth's lane, where segments are seen before they are signed\n"
            )
        });
        failed.chain(without_option).collect()
    }
}

fn verify(
    args: &VerifyArgs,
    config: &Path,
    mut lines: Option<&mut Lines<impl Write>>,
) -> Result<Outcome, VerifyError> {
    let of_capture = |error| VerifyError::Capture { path: args.file.clone(), error };
    let config = Config::load(config)?;
    let mut agreed = AgreedKeys::default();
    args.key_log.iter().try_for_each(|file| agreed.read(file))?;
    let input = File::open(&args.file).map_err(|error| of_capture(error.into()))?;
    let mut verifier = Verifier::new(&config, &agreed);
    let mut outcome =
        Outcome { summary: Summary::default(), first: BTreeMap::new(), first_without_option: None };
    for frame in Frames::new(BufReader::new(input)).map_err(of_capture)? {
        let Some(examined) = verifier.examine(&frame.map_err(of_capture)?) else { continue };
        outcome.summary.count(examined.verdict);
        match examined.verdict {
            Verdict::Verified => {}
            Verdict::Failed(failure) => _ = outcome.first.entry(failure).or_insert(examined.frame),
            Verdict::WithoutOption => _ = outcome.first_without_option.get_or_insert(examined.frame),
        }
        if let Some(lines) = &mut lines {
            lines.segment(&examined);
        }
    }
    Ok(outcome)
}

/// Lines of output. When nobody reads them any more (`| head`), verifying goes on, for the exit code.
struct Lines<W: Write> {
    out: W,
    is_open: bool,
    json: bool,
}

impl<W: Write> Lines<W> {
    fn segment(&mut self, examined: &Examined) {
        let line = if self.json { json(&SegmentLine::from(examined)) } else { text(examined) };
        self.line(&line);
    }

    fn summary(&mut self, summary: &Summary) {
        let line = if self.json { json(&SummaryLine::from(summary)) } else { summary.to_string() };
        self.line(&line);
    }

    fn line(&mut self, line: &str) {
        self.is_open = self.is_open && writeln!(self.out, "{line}").is_ok();
    }

    fn finish(mut self) -> io::Result<()> {
        match self.out.flush() {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }
}

fn text(examined: &Examined) -> String {
    let mut line = match examined.time {
        Some(Timestamp(time)) => {
            format!("{}.{:06}", time.div_euclid(SECOND), time.rem_euclid(SECOND) / 1_000)
        }
        None => "-".to_owned(),
    };
    line += &format!(" {} > {}", examined.source, examined.destination);
    if let Some(header) = examined.header {
        line += &format!(" [{}] seq {} len {}", header.flags, header.seq.0, header.len);
    }
    if let Some(option) = &examined.option {
        let mac = hex::encode(&option.mac);
        line += &format!(" KeyID {} RNextKeyID {} MAC {mac}", option.key_id, option.rnext_key_id);
    }
    if let Some(digest) = &examined.digest {
        line += &format!(" MD5 {}", hex::encode(digest));
    }
    line + &format!(" {}", examined.verdict)
}

/// A segment as JSON. Fields are absent if the capture does not have them.
#[derive(Serialize)]
struct SegmentLine {
    frame: u64,
    /// Seconds since 1970-01-01 00:00 UTC, with nine digits behind the point.
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    source: String,
    destination: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    len: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rnext_key_id: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// `verified`, `failed` or `without-option`.
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl From<&Examined> for SegmentLine {
    fn from(examined: &Examined) -> Self {
        let option = examined.option.as_ref();
        let (verdict, reason) = match examined.verdict {
            Verdict::Verified => ("verified", None),
            Verdict::Failed(failure) => ("failed", Some(failure.to_string())),
            Verdict::WithoutOption => ("without-option", None),
        };
        Self {
            frame: examined.frame,
            time: examined
                .time
                .map(|Timestamp(time)| format!("{}.{:09}", time.div_euclid(SECOND), time.rem_euclid(SECOND))),
            source: examined.source.to_string(),
            destination: examined.destination.to_string(),
            flags: examined.header.map(|header| header.flags.to_string()),
            seq: examined.header.map(|header| header.seq.0),
            len: examined.header.map(|header| header.len),
            key_id: option.map(|option| option.key_id.0),
            rnext_key_id: option.map(|option| option.rnext_key_id.0),
            mac: option.map(|option| hex::encode(&option.mac)),
            digest: examined.digest.as_ref().map(hex::encode),
            verdict,
            reason,
        }
    }
}

/// The summary as JSON.
#[derive(Serialize)]
struct SummaryLine {
    segments: u64,
    verified: u64,
    failed: u64,
    without_option: u64,
    /// How many failed, by reason.
    reasons: BTreeMap<String, u64>,
}

impl From<&Summary> for SummaryLine {
    fn from(summary: &Summary) -> Self {
        Self {
            segments: summary.segments,
            verified: summary.verified,
            failed: summary.failed(),
            without_option: summary.without_option,
            reasons: summary.failed.iter().map(|(failure, count)| (failure.to_string(), *count)).collect(),
        }
    }
}

/// These structs of strings and numbers always have a JSON form.
fn json(line: &impl Serialize) -> String {
    serde_json::to_string(line).unwrap_or_default()
}

/// Exit code if a file cannot be used.
const UNUSABLE: u8 = 2;

/// In nanoseconds.
const SECOND: i128 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const CONFIG: &str = r#"
        [neighbor."10.99.1.2"]
        password = "topsecret-key-one"
        send-id = 61
        recv-id = 84
        port = 1790
    "#;

    fn folder(config: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tcpauth.toml");
        fs::write(&path, config).unwrap();
        let only_ours = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(path, only_ours).unwrap();
        folder
    }

    fn args(file: PathBuf) -> VerifyArgs {
        VerifyArgs { file, config: None, key_log: Vec::new(), verbose: false }
    }

    fn capture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/linux-ao").join(name)
    }

    fn lines(json: bool) -> Vec<String> {
        let folder = folder(CONFIG);
        let mut lines = Lines { out: Vec::new(), is_open: true, json };
        let config = folder.path().join("tcpauth.toml");
        let outcome = verify(&args(capture("sha1-v4-ts1.pcap")), &config, Some(&mut lines)).unwrap();
        lines.summary(&outcome.summary);
        String::from_utf8(lines.out).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_line_a_segment_and_the_summary() {
        let lines = lines(false);
        assert_eq!(
            lines[3],
            "1795220617.854553 10.99.1.1:41041 > 10.99.1.2:1790 [.] seq 1019043643 len 1432 \
             KeyID 61 RNextKeyID 84 MAC 886de1ee762f0737df119b69 verified"
        );
        assert_eq!(lines.len(), 43);
        assert_eq!(lines[42], "segments 42, verified 42, failed 0, without option 0");
    }

    #[test]
    fn json_is_an_object_a_line() {
        let lines: Vec<serde_json::Value> =
            lines(true).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            lines[3],
            serde_json::json!({
                "frame": 4, "time": "1795220617.854553000", "source": "10.99.1.1:41041",
                "destination": "10.99.1.2:1790", "flags": ".", "seq": 1019043643, "len": 1432,
                "key_id": 61, "rnext_key_id": 84, "mac": "886de1ee762f0737df119b69", "verdict": "verified"
            })
        );
        assert_eq!(
            lines[42],
            serde_json::json!({"segments": 42, "verified": 42, "failed": 0, "without_option": 0, "reasons": {}})
        );
    }

    #[test]
    fn the_exit_code_says_how_it_went() {
        let code = |code: u8| format!("{:?}", ExitCode::from(code));
        let good = folder(CONFIG);
        let run = |config: &Path, name: &str| {
            let args = VerifyArgs { config: Some(config.to_owned()), ..args(capture(name)) };
            format!("{:?}", super::run(&args, &Instance::default(), false))
        };
        let config = good.path().join("tcpauth.toml");
        assert_eq!(run(&config, "sha1-v4-ts1.pcap"), code(0));
        assert_eq!(run(&config, "cmac-rekey-both-v4-ts1.pcap"), code(1), "another algorithm");
        assert_eq!(run(&config, "cmac-v6-ts1.pcap"), code(1), "no segment of the neighbour");
        assert_eq!(run(&config, "keys.json"), code(2), "not a capture");
        assert_eq!(run(&config, "absent.pcap"), code(2));
        assert_eq!(run(&good.path().join("absent.toml"), "sha1-v4-ts1.pcap"), code(2));
        let bad = folder("neighbor.\"10.99.1.2\".pasword = \"topsecret-key-one\"");
        assert_eq!(run(&bad.path().join("tcpauth.toml"), "sha1-v4-ts1.pcap"), code(2));
    }

    /// The capture's key as if it had been agreed: the configured one is another.
    #[test]
    fn agreed_keys_verify_what_the_configured_one_does_not() {
        let folder = folder(&CONFIG.replace("one", "two"));
        let (config, log) = (folder.path().join("tcpauth.toml"), folder.path().join("keys.log"));
        let good = args(capture("sha1-v4-ts1.pcap"));
        let frames = Frames::new(File::open(&good.file).unwrap()).unwrap();
        let octets = frames.map(|frame| frame.unwrap().octets).next().unwrap();
        let tcp = 14 + usize::from(octets[14] & 0xf) * 4;
        let isn = u32::from_be_bytes(octets[tcp + 4..tcp + 8].try_into().unwrap());
        let key = hex::encode("topsecret-key-one");
        let summary = |isn: u32| {
            let line = format!("10.99.1.1:41041 10.99.1.2:1790 {isn} - hmac-sha-1-96 61 84 {key}\n");
            fs::write(&log, line).unwrap();
            let args = VerifyArgs { key_log: vec![log.clone()], ..args(good.file.clone()) };
            verify(&args, &config, None::<&mut Lines<Vec<u8>>>).unwrap().summary
        };
        assert!(summary(isn).is_good(), "{}", summary(isn));
        assert_eq!(summary(isn ^ 1).verified, 0, "a key of another connection");
        fs::write(&log, "nonsense\n").unwrap();
        let args = VerifyArgs { key_log: vec![log], ..good };
        let error = verify(&args, &config, None::<&mut Lines<Vec<u8>>>).err().unwrap();
        assert!(error.to_string().contains("keys.log:1: not eight fields"), "{error}");
    }

    #[test]
    fn it_is_explained_what_failed_and_where() {
        let folder = folder(&CONFIG.replace("one", "two"));
        let config = folder.path().join("tcpauth.toml");
        let outcome =
            verify(&args(capture("sha1-v4-ts1.pcap")), &config, None::<&mut Lines<Vec<u8>>>).unwrap();
        assert_eq!(outcome.explanation(&config), "failed 42: wrong MAC (first in frame 1)\n");

        let unsigned = folder.path().join("unsigned.pcap");
        let mut octets = fs::read(capture("sha1-v4-ts1.pcap")).unwrap();
        let option = octets.windows(3).rposition(|three| three == [29, 16, 61]).unwrap();
        octets[option..option + 16].fill(1);
        fs::write(&unsigned, octets).unwrap();
        let outcome = verify(&args(unsigned), &config, None::<&mut Lines<Vec<u8>>>).unwrap();
        let explanation = outcome.explanation(&config);
        let (failed, without) = explanation.split_once('\n').unwrap();
        assert_eq!(failed, "failed 41: wrong MAC (first in frame 1)");
        assert!(without.starts_with("without option 1 (first in frame "), "{without}");
    }
}
