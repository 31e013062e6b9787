//! Test files: blocks of a statement, `---`, and what it must answer. A `#` line in front says why the block is there.

use std::fs;
use std::path::{Path, PathBuf};

/// Answers the blocks of one file, in order.
pub type Answer = Box<dyn FnMut(&str) -> String>;

/// Runs all files of `tests/sql/{folder}`, each with an `Answer` of its own.
pub fn run(folder: &str, make: impl Fn() -> Answer) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/sql").join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| is_test(path))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} holds no tests", folder.display());
    let wrong: Vec<String> = files.iter().filter_map(|path| check(path, make())).collect();
    assert!(wrong.is_empty(), "{}\nUPDATE=1 rewrites the files", wrong.join("\n"));
}

fn is_test(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "test")
}

/// What is wrong with a file, if something is.
fn check(path: &Path, mut answer: Answer) -> Option<String> {
    let text = fs::read_to_string(path).unwrap();
    let mut rewritten = Vec::new();
    for block in text.trim_end().split("\n\n") {
        let block = block.trim_matches('\n');
        let input = block.split("\n---").next().unwrap_or(block);
        let comments = input.lines().take_while(|line| line.starts_with('#')).count();
        let statement = input.lines().skip(comments).collect::<Vec<_>>().join("\n");
        if statement.is_empty() {
            rewritten.push(input.to_owned());
            continue;
        }
        let output = answer(&statement);
        assert!(
            !output.contains("\n\n"),
            "an answer cannot hold an empty line: {output}"
        );
        rewritten.push(format!("{input}\n---\n{output}").trim_end().to_owned());
    }
    let rewritten = rewritten.join("\n\n") + "\n";
    if rewritten == text {
        return None;
    }
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path, rewritten).unwrap();
        return None;
    }
    let mut lines = text.lines().zip(rewritten.lines()).enumerate();
    let (number, (was, is)) = lines
        .find(|(_, (was, is))| was != is)
        .unwrap_or((0, ("its length", "another")));
    Some(format!(
        "{}:{}\n  wanted: {was}\n  got:    {is}",
        path.display(),
        number + 1
    ))
}
