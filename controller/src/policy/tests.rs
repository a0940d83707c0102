use super::{
    check::{BadCheck, Check, Nothing, OfProject, Target},
    file::parse,
    names::{all, column, has_field},
    *,
};
use crate::{
    identity::with_roles,
    resource::{Policy, Verb},
    resources::REGISTRY,
};
use serde_json::{Value, json};
use std::path::Path;

/// A target of plain values.
struct Plain(Value);

impl Target for Plain {
    fn value(&self, name: &str) -> Option<Value> {
        self.0.get(name).cloned()
    }
}

fn compiled(text: &str) -> Result<Policies, PolicyError> {
    Policies::with(&parse(text, Path::new("policy.yaml"))?)
}

fn caller(roles: &[&str]) -> Caller {
    let roles = roles.iter().map(|role| (*role).to_owned()).collect();
    with_roles("u", "user", "p", roles)
}

#[test]
fn the_language_holds_of_callers_and_targets() {
    let rules = Policies::default();
    let member = caller(&["member", "Reader"]);
    let target = Plain(json!({
        "project_id": "p", "tenant_id": "p", "other": "q", "user_id": "u", "shared": true,
        "device_owner": "network:dhcp", "none": null, "target_tenant": "*", "number": 7,
        "router:external": false, "network:tenant_id": "p",
    }));
    for (text, holds) in [
        ("", true),
        ("@", true),
        ("!", false),
        ("role:member", true),
        ("role:MEMBER", true),
        ("role:admin", false),
        ("role:reader", true),
        ("project_id:%(project_id)s", true),
        ("tenant_id:%(tenant_id)s", true),
        ("project_id:%(other)s", false),
        ("project_id:%(missing)s", false),
        ("not project_id:%(missing)s", true),
        ("user_id:%(user_id)s", true),
        ("tenant_id:%(network:tenant_id)s", true),
        ("is_admin:True", false),
        ("is_admin:False", true),
        ("'p':%(project_id)s", true),
        ("True:%(shared)s", true),
        ("False:%(shared)s", false),
        ("None:%(none)s", true),
        ("7:%(number)s", true),
        ("field:networks:shared=True", true),
        ("field:networks:router:external=True", false),
        ("field:port:device_owner=~^network:", true),
        ("field:port:device_owner=~dhcp", false),
        ("field:rbac_policy:target_tenant=*", true),
        ("system_scope:all", false),
        // `and` binds closer than `or`, `not` closer than both.
        ("role:member or role:admin and role:x", true),
        ("(role:member or role:admin) and role:x", false),
        ("not role:x and role:member", true),
        ("not (role:x or role:member)", false),
        ("((role:member)) AND not role:x", true),
        ("role:x or\n role:member", true),
    ] {
        let check = Check::parse(text, &has_field).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(check.holds(&rules, &member, &target), holds, "{text}");
    }
    // Who has no project owns nothing, not even what belongs to none.
    let nobody = with_roles("u", "user", "", Vec::new());
    let check = Check::parse("project_id:%(project_id)s", &has_field).unwrap();
    assert!(!check.holds(&rules, &nobody, &Plain(json!({"project_id": ""}))));
    assert!(!check.holds(&rules, &nobody, &Nothing));
    assert!(check.holds(&rules, &member, &OfProject("p")));
}

#[test]
fn what_is_no_rule_is_told() {
    let wrong = |text: &str| Check::parse(text, &has_field).unwrap_err();
    assert_eq!(wrong("role:a or"), BadCheck::Short);
    assert_eq!(wrong("(role:a"), BadCheck::Open);
    assert_eq!(wrong("role:a)"), BadCheck::Unexpected(")".to_owned()));
    assert_eq!(
        wrong("role:a role:b"),
        BadCheck::Unexpected("role:b".to_owned())
    );
    assert_eq!(wrong("and role:a"), BadCheck::Unexpected("and".to_owned()));
    assert!(matches!(wrong("admin"), BadCheck::Shape(_)));
    assert!(matches!(wrong("role:"), BadCheck::Shape(_)));
    assert!(matches!(wrong("rolle:admin"), BadCheck::Kind(_)));
    assert!(matches!(
        wrong("project_id:%(project_id)"),
        BadCheck::Template(_)
    ));
    assert!(matches!(wrong("project_id:%s"), BadCheck::Template(_)));
    assert!(matches!(wrong("field:networks:shared"), BadCheck::Field(_)));
    assert!(matches!(
        wrong("field:nets:shared=True"),
        BadCheck::NoField(_)
    ));
    assert!(matches!(wrong("field:port:bogus=1"), BadCheck::NoField(_)));
    assert!(matches!(wrong("field:port:name=~("), BadCheck::Pattern(_)));
    assert!(matches!(wrong("http://x/y"), BadCheck::Remote(_)));
    assert_eq!(wrong(&"(".repeat(100)), BadCheck::Deep);
    assert_eq!(wrong(&"not ".repeat(100_000)), BadCheck::Deep);
}

#[test]
fn a_file_names_its_mistakes_with_line_and_rule() {
    for (text, parts) in [
        ("a: [", &["policy.yaml:2"][..]),
        ("- a", &["policy.yaml:1", "mapping"]),
        (
            "\n\"create_network\": 5",
            &["policy.yaml:2", "'create_network'", "not a text"],
        ),
        (
            "# no\n\"create_network\": \"\"\n\"create_netwrk\": \"role:admin\"",
            &["policy.yaml:3", "'create_netwrk'", "no request asks it"],
        ),
        (
            "\"create_network\": \"rule:nothing\"",
            &["policy.yaml:1", "'create_network'", "no such rule: nothing"],
        ),
        (
            "create_port:fixed_ips: \"rolle:x\"\n",
            &["policy.yaml:1", "'create_port:fixed_ips'", "rolle"],
        ),
        (
            "a: \"rule:b\"\nb: \"rule:a\"",
            &["policy.yaml:1", "'a'", "itself"],
        ),
        (
            "create_network: \"\"\ncreate_network: \"!\"",
            &["policy.yaml", "create_network"],
        ),
    ] {
        let error = compiled(text).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        for part in parts {
            assert!(error.contains(part), "{text}: {error}");
        }
    }
    assert!(compiled("").unwrap().changed.is_empty());
    assert!(compiled("# nothing\n").unwrap().changed.is_empty());
}

#[test]
fn a_change_reaches_what_refers_to_it_and_no_more() {
    let policies = compiled("admin_only: role:operator\ncreate_network:mtu: '!'").unwrap();
    for (name, changed) in [
        ("admin_only", true),
        ("create_network:shared", true),
        ("delete_network", true),
        ("create_network:mtu", true),
        ("context_is_admin", false),
        ("get_port:binding:profile", true),
        ("update_port:binding:profile", false),
        ("create_network:name", false),
    ] {
        let judged = policies.judge(name, &caller(&["member"])).is_some();
        assert_eq!(judged, changed, "{name}");
    }
    // The old form is taken as well.
    let old = compiled("create_network: [[\"role:a\", \"role:b\"], [\"role:c\"]]").unwrap();
    let may = |roles: &[&str]| {
        let caller = caller(roles);
        let check = old.judge("create_network", &caller).unwrap();
        check.holds(&old, &caller, &Nothing)
    };
    assert!(may(&["a", "b"]) && may(&["c"]) && !may(&["a"]));
    let everybody = compiled("create_network: []").unwrap();
    assert_eq!(everybody.rules["create_network"], Check::Always);
}

#[test]
fn the_sample_changes_nothing_and_with_its_marks_off_too() {
    let sample = sample();
    assert!(compiled(&sample).unwrap().changed.is_empty());
    let all: String = sample
        .lines()
        .map(|line| match line.strip_prefix("#\"") {
            Some(rest) => format!("\"{rest}\n"),
            None => format!("{line}\n"),
        })
        .collect();
    let policies = compiled(&all).unwrap();
    assert_eq!(policies.rules, Policies::defaults());
    let mut names: Vec<String> = names::all().into_iter().map(|rule| rule.name).collect();
    let many = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), many, "a rule is listed twice");
    assert_eq!(policies.changed.len(), many);
}

/// What the tables say, and what their texts say, of each kind of caller and object.
#[test]
fn tables_and_texts_agree() {
    let policies = Policies {
        rules: Policies::defaults(),
        changed: HashSet::new(),
    };
    let callers = [
        caller(&["admin", "manager", "member", "reader"]),
        caller(&["manager", "member", "reader"]),
        caller(&["member", "reader"]),
        caller(&["reader"]),
        caller(&["service"]),
        caller(&["other"]),
        caller(&[]),
    ];
    let holds = |name: &str, caller: &Caller, target: &dyn Target| {
        policies.rules[name].holds(&policies, caller, target)
    };
    for caller in &callers {
        for project in ["p", "q"] {
            let target = Plain(json!({
                "project_id": project, "network:project_id": project, "shared": false,
                "security_group:project_id": project, "device_owner": "", "ext_parent:project_id": project,
                "target_tenant": "t", "router:external": false,
            }));
            for spec in REGISTRY {
                for &verb in spec.verbs {
                    let rule = spec.rule(verb);
                    let owned = caller.owns(project);
                    let permits = crate::api::permits(spec.policy, caller) && caller.member;
                    let expected = match verb {
                        // A create's project is the caller's, if it is not an admin or a service.
                        Verb::Create if spec.policy == Policy::Anyone => match spec.storage {
                            "subnet" | "security_group_rule" => permits && owned,
                            _ => permits && (owned || caller.service),
                        },
                        Verb::Update | Verb::Delete if spec.policy == Policy::Anyone => {
                            permits && owned
                        }
                        Verb::Create | Verb::Update | Verb::Delete => permits,
                        Verb::Read => caller.is_usual() && owned && !caller.roles.is_empty(),
                    };
                    assert_eq!(
                        holds(&rule, caller, &target),
                        expected,
                        "{rule} {:?} {project}",
                        caller.roles
                    );
                    for field in spec.fields() {
                        let policy = column(field, verb);
                        if !matches!(policy, Policy::Anyone | Policy::Nobody) {
                            let rule = format!("{rule}:{}", field.name);
                            assert_eq!(
                                holds(&rule, caller, &target),
                                crate::api::permits(policy, caller),
                                "{rule} {:?}",
                                caller.roles
                            );
                        }
                    }
                }
            }
        }
    }
    assert!(all().len() > 200);
}

#[test]
fn files_that_change_are_read_again_and_wrong_ones_change_nothing() {
    let dir = tempfile();
    let file = dir.join("policy.yaml");
    let more = dir.join("policy.d");
    std::fs::create_dir_all(&more).unwrap();
    std::fs::write(&file, "create_network: '!'\n").unwrap();
    let board = Board::open(Files {
        file: Some(file.clone()),
        dir: Some(more.clone()),
    })
    .unwrap();
    let may = |rule: &str| {
        let met = board.meet(Arc::new(caller(&["member", "reader"])));
        met.may(rule, &OfProject("p"), true)
    };
    assert!(!may("create_network") && may("create_port"));
    assert!(!board.refresh().unwrap(), "nothing changed");
    // A file of the folder stands over the other, by the order of their names.
    std::fs::write(
        more.join("10.yaml"),
        "create_network: '@'\ncreate_port: '!'\n",
    )
    .unwrap();
    std::fs::write(more.join("20.json"), "{\"create_port\": \"role:member\"}").unwrap();
    std::fs::write(more.join("notes.txt"), "not: [a rule").unwrap();
    assert!(board.refresh().unwrap());
    assert!(may("create_network") && may("create_port"));
    std::fs::write(
        more.join("20.json"),
        "{\"create_port\": \"rolle:member or more\"}",
    )
    .unwrap();
    let error = board.refresh().unwrap_err().to_string();
    assert!(
        error.contains("20.json:1") && error.contains("create_port"),
        "{error}"
    );
    assert!(
        may("create_network") && may("create_port"),
        "what held before holds on"
    );
    assert!(!board.refresh().unwrap(), "a mistake is told once");
    std::fs::remove_file(more.join("20.json")).unwrap();
    assert!(board.refresh().unwrap());
    assert!(!may("create_port"));
    std::fs::remove_dir_all(dir).unwrap();
}

fn tempfile() -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("overweave-policy-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

#[test]
fn who_is_an_admin_is_a_policy() {
    let dir = tempfile();
    let file = dir.join("policy.yaml");
    std::fs::write(
        &file,
        "context_is_admin: role:cloud_admin or user_id:root\n",
    )
    .unwrap();
    let board = Board::open(Files {
        file: Some(file),
        dir: None,
    })
    .unwrap();
    let met = board.meet(Arc::new(caller(&["cloud_admin"])));
    assert!(met.admin && met.member);
    assert!(!board.meet(Arc::new(caller(&["admin", "member"]))).admin);
    // Without files nobody is met with rules but whose roles no table knows.
    let none = Board::default();
    assert!(none.is_fixed());
    assert!(none.meet(Arc::new(caller(&["reader"]))).policies.is_none());
    let odd = none.meet(Arc::new(caller(&["auditor"])));
    assert_eq!(odd.told("get_network", &OfProject("p")), Some(false));
    assert_eq!(odd.told("update_network", &OfProject("p")), None);
    std::fs::remove_dir_all(dir).unwrap();
}

/// 220 random rules, and what the language's own implementation says of them.
#[test]
fn the_language_is_what_its_own_implementation_takes_it_for() {
    let rules = Policies {
        rules: HashMap::from([
            ("yes".to_owned(), Check::Always),
            ("no".to_owned(), Check::Never),
        ]),
        changed: HashSet::new(),
    };
    let who = caller(&["member", "Reader"]);
    let target = Plain(json!({
        "project_id": "p", "tenant_id": "p", "other": "q", "user_id": "u", "shared": true,
        "none": null, "number": 7, "text": "member", "network:project_id": "p",
    }));
    let mut many = 0;
    for line in include_str!("recorded.txt").lines() {
        let Some((said, text)) = line.split_once(' ').filter(|(said, _)| *said != "#") else {
            continue;
        };
        let text = text.replace("\\t", "\t");
        let check = Check::parse(&text, &has_field).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(check.holds(&rules, &who, &target), said == "T", "{text}");
        many += 1;
    }
    assert_eq!(many, 220);
}
