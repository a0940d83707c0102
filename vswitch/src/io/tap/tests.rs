use super::*;

#[test]
fn names_are_what_the_kernel_takes() {
    for good in ["eth0", "a", "tap-0123456789a", "x.1"] {
        assert_eq!(good.parse::<IfName>().unwrap().to_string(), good);
    }
    for bad in [
        "",
        ".",
        "..",
        "a/b",
        "a b",
        "tap%d",
        "a:1",
        "0123456789abcdef",
    ] {
        assert!(bad.parse::<IfName>().is_err(), "{bad}");
    }
}
