//! `tcpauth verify FILE.pcap`: whether every segment of a capture verifies.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::verify_lines::Lines;
use crate::capture::{
    AgreedKeys, CaptureError, Examination, Examined, Failure, Frames, KeyLogError, Other, Rest, Summary,
    Verdict, Verifier,
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
/// Success if there were segments, all verified, and the file was read to its end; exit code 1 if not, 2 if a file
/// cannot be used.
pub fn run(args: &VerifyArgs, instance: &Instance, json: bool) -> ExitCode {
    let config = args.config.clone().unwrap_or_else(|| instance.config_file());
    let mut lines = Lines::new(BufWriter::new(io::stdout().lock()), json);
    let print = |examined: &Examined| {
        if args.verbose {
            lines.segment(examined);
        }
    };
    match verify(args, &config, print) {
        Ok(outcome) => {
            if !args.verbose {
                lines.summary(&outcome);
            }
            let closed = lines.finish();
            if args.verbose {
                eprintln!("{}", outcome.summary);
            }
            eprint!("{}", outcome.explanation(args, &config));
            match (closed, outcome.is_good()) {
                (Err(error), _) => {
                    eprintln!("tcpauth: cannot write the output: {error}");
                    ExitCode::from(UNUSABLE)
                }
                (Ok(()), true) => ExitCode::SUCCESS,
                (Ok(()), false) => ExitCode::FAILURE,
            }
        }
        Err(error) => {
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
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) summary: Summary,
    pub(super) rest: Rest,
    /// The frame in which each failure came first.
    first: BTreeMap<Failure, u64>,
    /// The frame of the first segment without option.
    first_without_option: Option<u64>,
}

impl Outcome {
    fn count(&mut self, examined: &Examined) {
        self.summary.count(examined.verdict);
        match examined.verdict {
            Verdict::Verified => {}
            Verdict::Failed(failure) => _ = self.first.entry(failure).or_insert(examined.frame),
            Verdict::WithoutOption => _ = self.first_without_option.get_or_insert(examined.frame),
        }
    }

    /// Whether there were segments, every one verified, and no part of the file is unknown.
    fn is_good(&self) -> bool {
        self.summary.is_good() && self.rest.unread.is_none()
    }

    /// For people: what failed first where, why there was nothing to verify, and what was not looked into.
    fn explanation(&self, args: &VerifyArgs, config: &Path) -> String {
        let has_segments = self.summary.segments > 0;
        let mut text = String::new();
        if !has_segments {
            text += &self.absence(config);
        }
        for (failure, count) in &self.summary.failed {
            let first = self.first.get(failure).copied().unwrap_or_default();
            text += &format!("failed {count}: {failure} (first in frame {first})\n");
        }
        if let Some(first) = self.first_without_option {
            let count = self.summary.without_option;
            text += &format!(
                "without option {count} (first in frame {first}): its sender does not sign, or the capture was \
                 made on `any` or on tcpauth's lane, where segments are seen before they are signed\n"
            );
        }
        text += &self.rest.others.explanation(has_segments);
        if let Some(error) = &self.rest.unread {
            text += &format!("{}: {error}; all that comes before was examined\n", args.file.display());
        }
        text
    }

    /// Why the capture may have no neighbor's segments.
    fn absence(&self, config: &Path) -> String {
        let config = config.display();
        if self.rest.others.contains(Other::Stranger) {
            format!(
                "no TCP segment to or from a neighbour of {config} is in the capture: \
                 are the neighbour's address and `port` those of the connection?\n"
            )
        } else if self.rest.others.is_empty() {
            "no frame is in the capture: was there no traffic yet, or did a filter leave it out?\n".to_owned()
        } else {
            "no frame of the capture has a TCP segment that can be read\n".to_owned()
        }
    }
}

/// Tells `each` of every segment.
fn verify(args: &VerifyArgs, config: &Path, mut each: impl FnMut(&Examined)) -> Result<Outcome, VerifyError> {
    let of_capture = |error| VerifyError::Capture { path: args.file.clone(), error };
    let config = Config::load(config)?;
    let mut agreed = AgreedKeys::default();
    args.key_log.iter().try_for_each(|file| agreed.read(file))?;
    let input = File::open(&args.file).map_err(|error| of_capture(error.into()))?;
    let frames = Frames::new(BufReader::new(input)).map_err(of_capture)?;
    let mut examination = Examination::new(frames, Verifier::new(&config, &agreed));
    let mut outcome = Outcome::default();
    for examined in examination.by_ref() {
        outcome.count(&examined);
        each(&examined);
    }
    outcome.rest = examination.into_rest();
    Ok(outcome)
}

/// Exit code if a file cannot be used.
const UNUSABLE: u8 = 2;

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
        let mut out = Vec::new();
        let mut lines = Lines::new(&mut out, json);
        let config = folder.path().join("tcpauth.toml");
        let args = args(capture("sha1-v4-ts1.pcap"));
        let outcome = verify(&args, &config, |examined| lines.segment(examined)).unwrap();
        lines.summary(&outcome);
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
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
            serde_json::json!({
                "segments": 42, "verified": 42, "failed": 0, "without_option": 0, "reasons": {}, "other_frames": {}
            })
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
        let cut = good.path().join("cut.pcap");
        let whole = fs::read(capture("sha1-v4-ts1.pcap")).unwrap();
        for (len, expected) in [(whole.len(), 0), (whole.len() - 1, 1), (24, 1), (23, 2), (0, 2)] {
            fs::write(&cut, &whole[..len]).unwrap();
            assert_eq!(run(&config, cut.to_str().unwrap()), code(expected), "{len} bytes of it");
        }
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
            let line = format!("10.99.1.1:41041 10.99.1.2:1790 {isn} - hmac-sha-1-96 61 84 {key} include\n");
            fs::write(&log, line).unwrap();
            let args = VerifyArgs { key_log: vec![log.clone()], ..args(good.file.clone()) };
            verify(&args, &config, |_| ()).unwrap().summary
        };
        assert!(summary(isn).is_good(), "{}", summary(isn));
        assert_eq!(summary(isn ^ 1).verified, 0, "a key of another connection");
        fs::write(&log, "nonsense\n").unwrap();
        let args = VerifyArgs { key_log: vec![log], ..good };
        let error = verify(&args, &config, |_| ()).err().unwrap();
        assert!(error.to_string().contains("keys.log:1: too few fields"), "{error}");
    }

    #[test]
    fn it_is_explained_what_failed_and_where() {
        let folder = folder(&CONFIG.replace("one", "two"));
        let config = folder.path().join("tcpauth.toml");
        let good = args(capture("sha1-v4-ts1.pcap"));
        let outcome = verify(&good, &config, |_| ()).unwrap();
        assert_eq!(outcome.explanation(&good, &config), "failed 42: wrong MAC (first in frame 1)\n");

        let unsigned = folder.path().join("unsigned.pcap");
        let mut octets = fs::read(capture("sha1-v4-ts1.pcap")).unwrap();
        let option = octets.windows(3).rposition(|three| three == [29, 16, 61]).unwrap();
        octets[option..option + 16].fill(1);
        fs::write(&unsigned, octets).unwrap();
        let unsigned = args(unsigned);
        let outcome = verify(&unsigned, &config, |_| ()).unwrap();
        let explanation = outcome.explanation(&unsigned, &config);
        let (failed, without) = explanation.split_once('\n').unwrap();
        assert_eq!(failed, "failed 41: wrong MAC (first in frame 1)");
        assert!(without.starts_with("without option 1 (first in frame "), "{without}");
    }

    /// A file of these octets, and what is said of it.
    fn said(octets: &[u8]) -> (Outcome, String, Vec<serde_json::Value>) {
        let folder = folder(CONFIG);
        let (config, file) = (folder.path().join("tcpauth.toml"), folder.path().join("made.pcap"));
        fs::write(&file, octets).unwrap();
        let args = args(file);
        let outcome = verify(&args, &config, |_| ()).unwrap();
        let mut out = Vec::new();
        Lines::new(&mut out, true).summary(&outcome);
        let text = outcome.explanation(&args, &config);
        (
            outcome,
            text,
            out.split(|octet| *octet == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect(),
        )
    }

    #[test]
    fn the_whole_records_of_a_file_that_is_cut_off_are_verified() {
        let whole = fs::read(capture("sha1-v4-ts1.pcap")).unwrap();
        for cut in [1, 15, 80] {
            let (outcome, text, json) = said(&whole[..whole.len() - cut]);
            assert_eq!(outcome.summary.to_string(), "segments 41, verified 41, failed 0, without option 0");
            assert!(!outcome.is_good(), "the rest is not known");
            let place = outcome.rest.unread.unwrap().place().unwrap();
            assert_eq!(place.record, 42);
            let offset = place.offset as usize;
            let captured = u32::from_le_bytes(whole[offset + 8..offset + 12].try_into().unwrap()) as usize;
            assert_eq!(offset + 16 + captured, whole.len(), "where the last record begins");
            let what = format!(
                "the capture file ends in the middle of record 42 (at byte {offset}): it is still being written"
            );
            assert!(text.contains(&what), "{text}");
            assert!(text.ends_with("; all that comes before was examined\n"), "{text}");
            assert_eq!(json[0]["segments"], 41);
            assert_eq!(
                (&json[0]["unread"]["record"], &json[0]["unread"]["offset"]),
                (&42.into(), &offset.into())
            );
            assert!(json[0]["unread"]["reason"].as_str().unwrap().starts_with("the capture file ends"));
        }
        let (outcome, text, json) = said(&whole);
        assert!(outcome.is_good() && text.is_empty() && json[0].get("unread").is_none(), "{text}");
    }

    #[test]
    fn it_is_explained_why_there_is_no_segment() {
        let whole = fs::read(capture("sha1-v4-ts1.pcap")).unwrap();
        let frame = &whole[24 + 16..][..u32::from_le_bytes(whole[32..36].try_into().unwrap()) as usize];
        let with = |at: usize, octets: &[u8]| {
            let mut file = whole[..24 + 16 + frame.len()].to_vec();
            file[24 + 16 + at..][..octets.len()].copy_from_slice(octets);
            said(&file)
        };
        let (outcome, text, json) = with(12, &[0x88, 0xcc]);
        assert_eq!(
            text,
            "no frame of the capture has a TCP segment that can be read\nother frames 1: 0x88cc LLDP\n"
        );
        assert_eq!(json[0]["other_frames"], serde_json::json!({"0x88cc LLDP": 1}));
        assert!(!outcome.is_good());
        let (_, text, _) = with(14 + 20, &[0, 80, 0, 80]);
        assert!(text.contains("are the neighbour's address and `port` those of the connection?"), "{text}");
        let (_, text, _) = said(&whole[..24]);
        assert!(text.starts_with("no frame is in the capture"), "{text}");
    }
}
