//! Do trunks carry workloads that can go by one device?

use std::collections::BTreeSet;

use super::{Wrong, unknown, wrong};
use crate::lab::file::RawTrunk;
use crate::lab::plan::{Lab, Workload};

fn workload<'a>(place: &str, name: &str, lab: &'a Lab) -> Result<&'a Workload, Wrong> {
    match lab.workload(name) {
        Some(workload) => Ok(workload),
        None => wrong(
            place,
            unknown("workload", name, lab.workloads.iter().map(|w| &w.name)),
        ),
    }
}

pub(super) fn trunks(raw: Vec<RawTrunk>, lab: &Lab) -> Result<Vec<RawTrunk>, Wrong> {
    let mut used = BTreeSet::new();
    for (i, one) in raw.iter().enumerate() {
        let place = format!("trunks[{i}].parent");
        let parent = workload(&place, &one.parent, lab)?;
        if !used.insert(one.parent.as_str()) {
            return wrong(place, in_use(&one.parent));
        }
        if lab.host(&parent.host).is_some_and(|h| h.kernel_vtep) {
            return wrong(
                place,
                format!(
                    "host `{}` is a kernel VTEP, which has no trunks",
                    parent.host
                ),
            );
        }
        let mut vlans = BTreeSet::new();
        for (k, sub) in one.sub_ports.iter().enumerate() {
            let place = format!("trunks[{i}].sub_ports[{k}]");
            let own = workload(&format!("{place}.workload"), &sub.workload, lab)?;
            if !used.insert(sub.workload.as_str()) {
                return wrong(format!("{place}.workload"), in_use(&sub.workload));
            }
            if own.host != parent.host || lab.project_of(own) != lab.project_of(parent) {
                return wrong(
                    format!("{place}.workload"),
                    format!(
                        "`{}` is not on the host and in the project of `{}`",
                        sub.workload, one.parent
                    ),
                );
            }
            if net::Vlan::try_from(sub.vlan).is_err() || !vlans.insert(sub.vlan) {
                return wrong(
                    format!("{place}.vlan"),
                    format!(
                        "{} is out of range (1 to 4094) or taken; choose another",
                        sub.vlan
                    ),
                );
            }
        }
    }
    Ok(raw)
}

fn in_use(workload: &str) -> String {
    format!("`{workload}` is in a trunk already; take one away")
}

#[cfg(test)]
mod tests {
    use crate::lab::check;

    const FILE: &str = "
hosts: [h1, h2]
networks: [{name: blue, cidr: 10.0.0.0/24}, {name: red, cidr: 10.0.1.0/24, project: other}]
workloads:
  - {name: vm, host: h1, network: blue}
  - {name: c1, host: h1, network: blue}
  - {name: c2, host: h1, network: blue}
  - {name: far, host: h2, network: blue}
  - {name: theirs, host: h1, network: red}
trunks: [{parent: vm, sub_ports: [{workload: c1, vlan: 101}, {workload: c2, vlan: 102}]}]
";

    #[test]
    fn trunks_name_what_can_go_by_one_device() {
        let lab = check::lab("f", "f", FILE).unwrap();
        assert_eq!(lab.trunks[0].sub_ports.len(), 2);
        for (was, is, place) in [
            ("parent: vm", "parent: wm", "trunks[0].parent"),
            (
                "{workload: c2",
                "{workload: far",
                "trunks[0].sub_ports[1].workload",
            ),
            (
                "{workload: c2",
                "{workload: theirs",
                "trunks[0].sub_ports[1].workload",
            ),
            (
                "{workload: c2",
                "{workload: c1",
                "trunks[0].sub_ports[1].workload",
            ),
            (
                "{workload: c2",
                "{workload: vm",
                "trunks[0].sub_ports[1].workload",
            ),
            ("vlan: 102", "vlan: 101", "trunks[0].sub_ports[1].vlan"),
            ("vlan: 102", "vlan: 4095", "trunks[0].sub_ports[1].vlan"),
            ("vlan: 102", "vlan: 0", "trunks[0].sub_ports[1].vlan"),
        ] {
            let text = FILE.replace(was, is);
            let said = check::lab("f", "f", &text).unwrap_err().to_string();
            assert!(said.contains(&format!("{place}: ")), "{is}: {said}");
        }
    }
}
