// A policy: nobody opens a file of this name for as long as it is woven, whoever they are; each attempt is logged and counted.
//
//     klasy weave deny_path.asp; klasy log -f deny_path
//
// Change the name in the condition to your own. It is the last part of the path as the kernel knows it, behind all links. Unweaving ends
// the policy at once; one that cannot be woven whole denies nothing.
//
//     cat[812] uid 1000 may not open klasy-secret
aspect deny_path {
    around(struct file *file): execution(security_file_open(struct file *file))
            && if(str(file->f_path.dentry->d_name.name) == "klasy-secret") {
        log("%s[%u] uid %u may not open %s", comm, pid, uid, str(file->f_path.dentry->d_name.name));
        deny(EACCES);
    }
}
