//! What is a port called?
//!
//! By its own name, or by that of its address, `host-10-0-0-5`.

use std::net::IpAddr;

/// The name of an address, in its domain.
fn generated(addr: IpAddr) -> String {
    format!("host-{}", addr.to_string().replace(['.', ':'], "-"))
}

/// The name by which a port's host knows itself: the first label of its own, or its address's.
pub fn host_name(dns_name: Option<&str>, addr: IpAddr) -> String {
    let own = dns_name.and_then(|name| name.split('.').next());
    own.filter(|label| !label.is_empty())
        .map_or_else(|| generated(addr), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_called_by_its_first_label_or_its_address() {
        let addr = "10.0.0.5".parse().unwrap();
        assert_eq!(host_name(Some("web.example.org."), addr), "web");
        assert_eq!(host_name(Some("web"), addr), "web");
        assert_eq!(host_name(None, addr), "host-10-0-0-5");
        assert_eq!(host_name(None, "fd00::5".parse().unwrap()), "host-fd00--5");
    }
}
