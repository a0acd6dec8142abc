//! Rust names for WSDL names.

/// `memoryMB` → `memory_mb`, `numCPUs` → `num_cpus`, `PowerOnVM_Task` → `power_on_vm_task`.
pub fn snake(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (i, &c) in chars.iter().enumerate() {
        if !c.is_ascii_alphanumeric() {
            if !out.ends_with('_') {
                out.push('_');
            }
            continue;
        }
        if c.is_ascii_uppercase() && i > 0 && !out.ends_with('_') {
            let before = chars[i - 1];
            let after = chars.get(i + 1).copied().unwrap_or('_');
            // The plural of an acronym stays one word: `CPUs`, `IDs`.
            let plural = after == 's' && chars.get(i + 2).is_none_or(|c| !c.is_ascii_lowercase());
            if before.is_ascii_lowercase()
                || before.is_ascii_digit()
                || (before.is_ascii_uppercase() && after.is_ascii_lowercase() && !plural)
            {
                out.push('_');
            }
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// A field's name: snake case, with Rust's keywords made raw.
pub fn field(name: &str) -> String {
    let name = snake(name);
    match name.as_str() {
        "self" => "self_".into(),
        "type" | "in" | "ref" | "default" | "static" | "use" | "match" | "move" | "mod" | "box"
        | "where" | "abstract" | "final" | "override" | "priv" | "virtual" | "yield" | "fn"
        | "for" | "if" | "impl" | "loop" | "trait" | "dyn" | "enum" | "struct" | "pub"
        | "const" | "async" | "await" | "as" | "break" | "continue" | "do" | "else" | "extern"
        | "false" | "true" | "let" | "macro" | "mut" | "return" | "try" | "typeof" | "unsafe"
        | "unsized" | "while" | "become" | "gen" => match name.as_str() {
            "default" | "priv" | "gen" => name,
            _ => format!("r#{name}"),
        },
        _ => name,
    }
}

/// The name of an enum's variant: `poweredOff` → `PoweredOff`, `vmx-08` → `Vmx08`, `802.1x` → `V8021x`.
pub fn variant(value: &str) -> String {
    let mut out = String::new();
    let mut upper = true;
    for c in value.chars() {
        if c.is_ascii_alphanumeric() {
            if out.is_empty() && c.is_ascii_digit() {
                out.push('V');
            }
            out.push(if upper { c.to_ascii_uppercase() } else { c });
            upper = false;
        } else {
            upper = true;
        }
    }
    if out == "Unknown" || out == "Self" {
        out.push_str("Value");
    }
    out
}

/// The name of a struct or of a request.
pub fn type_name(wsdl: &str) -> String {
    let mut out = String::new();
    let mut upper = true;
    for c in wsdl.chars() {
        if c == '_' {
            upper = true;
        } else {
            out.push(if upper { c.to_ascii_uppercase() } else { c });
            upper = false;
        }
    }
    out
}

/// `PowerOnVM_Task` → `PowerOnVMRequest`.
pub fn request(method: &str) -> String {
    format!("{}Request", type_name(method.trim_end_matches("_Task")))
}
