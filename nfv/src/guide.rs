//! Does the guide show what is there?

const GUIDE: &str = include_str!("../../docs/adding-a-function.md");

/// The files that the guide cuts from.
const FILES: &[(&str, &str)] = &[
    (
        "nfv/src/functions/rate_limiter.rs",
        include_str!("functions/rate_limiter.rs"),
    ),
    ("nfv/src/catalog.rs", include_str!("catalog.rs")),
    (
        "configs/chains/rate-limiter.yaml",
        include_str!("../../configs/chains/rate-limiter.yaml"),
    ),
];

/// Everything between an API or lab file and the function's own.
const FRAME: &[&str] = &[
    include_str!("chain.rs"),
    include_str!("../../hostconfig/src/chain.rs"),
    include_str!("../../controller/src/compile/chain.rs"),
    include_str!("../../controller/src/compile/intent.rs"),
    include_str!("../../controller/src/compile/view/mod.rs"),
    include_str!("../../controller/src/resources/port_pair_group.rs"),
    include_str!("../../vswitch/src/datapath/chains.rs"),
    include_str!("../../vswitch/src/datapath/upcall.rs"),
    include_str!("../../vswitch/src/datapath/explain.rs"),
    include_str!("../../cli/src/lab/file.rs"),
    include_str!("../../cli/src/lab/plan.rs"),
    include_str!("../../cli/src/lab/check/chains.rs"),
    include_str!("../../cli/src/lab/provision/chains.rs"),
];

#[test]
fn every_excerpt_is_cut_from_the_file_that_it_names() {
    let mut excerpts = 0;
    let blocks = GUIDE.split("\n<!-- ").skip(1);
    for block in blocks {
        let (path, rest) = block.split_once(" -->\n```").unwrap();
        let (_language, rest) = rest.split_once('\n').unwrap();
        let (excerpt, _) = rest.split_once("```").unwrap();
        let (_, text) = FILES.iter().find(|(name, _)| *name == path).unwrap();
        assert!(text.contains(excerpt), "not in {path}:\n{excerpt}");
        excerpts += 1;
    }
    assert_eq!(excerpts, 5);
    assert_eq!(
        GUIDE.matches("\n```").count(),
        2 * excerpts,
        "none without a file"
    );
}

#[test]
fn nothing_on_its_way_knows_the_function() {
    for text in FRAME {
        for name in ["rate_limiter", "RateLimiter", "rate limiter"] {
            assert!(!text.contains(name), "{name} in the frame");
        }
    }
}
