//! The one-way dependencies between the crates, held over `cargo metadata`:
//!
//! ```text
//! server -> bridge -> broker -> store -> config
//!                \--> sql ----^
//! ```

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// Who may see whom, in tests and build scripts too. The fuzz targets stand outside: nobody may see them.
const MAY_SEE: &[(&str, &[&str])] = &[
    ("headwater-config", &[]),
    ("headwater-store", &["headwater-config"]),
    ("headwater-broker", &["headwater-config", "headwater-store"]),
    ("headwater-sql", &["headwater-config", "headwater-store"]),
    (
        "headwater-bridge",
        &[
            "headwater-broker",
            "headwater-config",
            "headwater-sql",
            "headwater-store",
        ],
    ),
    (
        "headwater",
        &[
            "headwater-bridge",
            "headwater-broker",
            "headwater-config",
            "headwater-sql",
            "headwater-store",
        ],
    ),
];

#[test]
fn dependencies_point_one_way_and_broker_and_sql_never_see_each_other() {
    let allowed: BTreeMap<_, _> = MAY_SEE.iter().copied().collect();
    let mut seen = Vec::new();
    for package in workspace() {
        let name = package["name"].as_str().expect("a package has a name");
        if name == "headwater-fuzz" {
            continue;
        }
        let allowed = allowed
            .get(name)
            .unwrap_or_else(|| panic!("{name} is new: say in MAY_SEE whom it may see"));
        for dependency in package["dependencies"].as_array().expect("a list").iter() {
            let dependency = dependency["name"].as_str().expect("a dependency has a name");
            assert!(
                !dependency.starts_with("headwater") || allowed.contains(&dependency),
                "{name} depends on {dependency}, and may only see {allowed:?}"
            );
        }
        seen.push(name.to_owned());
    }
    for (name, _) in MAY_SEE {
        assert!(
            seen.iter().any(|seen| seen == name),
            "{name} is gone: take it out of MAY_SEE"
        );
    }
}

fn workspace() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
            "--manifest-path",
        ])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    metadata["packages"].as_array().expect("a list of packages").clone()
}
