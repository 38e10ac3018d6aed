//! From the board to ring 3: the PVH entry (Xen `docs/misc/pvh.pandoc`: 32-bit protected mode, paging off, EBX = start
//! information), the processor's tables, the interrupt stubs (Intel SDM vol. 3, chapters 3, 4, 7 and 8).
//!
//! All tables are assembled, none is computed at run time. Ring 0 runs about sixty instructions before ring 3, then only
//! the stubs: exceptions go to `trap.rs` in ring 3, except that HLT is carried out: it sleeps until an interrupt comes.

use core::arch::global_asm;

global_asm!(
    r#"
    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18                      /* name size, value size, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long guest_entry

    .section .boot.text, "ax", @progbits
    .code32
    .globl guest_entry
guest_entry:
    cli
    cld
    mov esp, offset guest_stack0_end
    lgdt [guest_gdt_pointer]
    mov eax, cr4
    or eax, 0x620                       /* PAE, OSFXSR, OSXMMEXCPT */
    mov cr4, eax
    mov eax, offset guest_pml4
    mov cr3, eax
    mov ecx, 0xc0000080                 /* EFER */
    rdmsr
    or eax, 0x100                       /* LME */
    wrmsr
    mov edi, ebx                        /* start information: CPUID overwrites EBX */
    mov eax, cr0
    and eax, 0x9ffffff3                 /* not CD, NW, TS, EM */
    or eax, 0x80000023                  /* PG, NE, MP, PE */
    mov cr0, eax
    .byte 0xea                          /* ljmp 0x08:entry64 */
    .long entry64
    .word 0x08
    .code64
entry64:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    lidt [guest_idt_pointer]
    mov eax, 0x28
    ltr ax
    mov eax, 0x80000000
    cpuid
    xor r9d, r9d
    mov r8d, 36
    cmp eax, 0x80000001
    jb 1f
    mov r10d, eax
    mov eax, 0x80000001
    cpuid
    mov r9d, edx
    cmp r10d, 0x80000008
    jb 1f
    mov eax, 0x80000008
    cpuid
    movzx r8d, al
1:
    mov esi, r9d
    mov edx, r8d
    push 0x1b                           /* SS */
    push offset guest_stack3_top        /* RSP, as after a call */
    push 0x3002                         /* RFLAGS: IOPL 3, IF 0 */
    push 0x23                           /* CS */
    push offset guest_main
    iretq

    /* An exception: keep what it says, go on in ring 3 on a fresh stack. It does not return. */
exception:
    mov [guest_trap + 32], rax
    pop rax
    mov [guest_trap], rax               /* vector */
    pop rax
    mov [guest_trap + 8], rax           /* error code */
    pop rax
    mov [guest_trap + 16], rax          /* RIP */
    mov rax, cr2
    mov [guest_trap + 24], rax
    push 0x1b
    push offset guest_stack3_top
    push 0x3002
    push 0x23
    push offset guest_trapped
    iretq

    /* An interrupt from the slave of the 8259 pair: the pin of a PCI function, raised until its driver has run. The slave is masked
       until the program sleeps again (bus.rs). */
irq_slave:
    push rax
    mov al, 0xff
    out 0xa1, al
    mov al, 0x20
    out 0xa0, al
    out 0x20, al
    pop rax
    iretq

    /* An interrupt from the master. */
irq_pic:
    push rax
    mov al, 0x20
    out 0x20, al
    pop rax
    iretq

    /* A message-signalled interrupt: end of interrupt at the local APIC. */
irq_apic:
    push rax
    mov eax, 0xfee000b0
    mov dword ptr [rax], 0
    pop rax
    iretq

    /* HLT in ring 3 is a general protection fault: do it for it. STI works one instruction late, so an interrupt that is
       pending comes once HLT has begun: none is lost. Other ways into ring 0 (int n, syscall) do not work everywhere. */
protection:
    push rax
    mov rax, [rsp + 16]                 /* RIP */
    cmp byte ptr [rax], 0xf4
    jne 1f
    inc rax
    mov [rsp + 16], rax
    pop rax
    add rsp, 8                          /* error code */
    sti
    hlt
    cli
    iretq
1:
    pop rax
    push 13
    jmp exception

    .section .vectors, "ax", @progbits
    .set n, 0
    .rept 256
    .balign 16, 0xcc
    .if n == 13
        jmp protection
    .elseif n < 32
        .if (0x60227d00 >> n) & 1 == 0  /* these push an error code: 8, 10-14, 17, 21, 29, 30 */
            push 0
        .endif
        push n
        jmp exception
    .elseif n < 0x28
        jmp irq_pic
    .elseif n < 0x30
        jmp irq_slave
    .elseif n < 0xf0
        jmp irq_apic
    .else
        iretq
    .endif
    .set n, n + 1
    .endr
    .balign 4096, 0xcc

    .section .tables, "aw", @progbits
    /* IDT: gate n leads to 0x101000 + 16 n. Interrupt gates. */
    .balign 4096
guest_idt:
    .set n, 0
    .rept 256
    .word 0x1000 + 16 * n
    .word 0x08
    .byte 0
    .byte 0x8e
    .word 0x10
    .long 0, 0
    .set n, n + 1
    .endr
    /* At 0x103000. */
guest_gdt:
    .quad 0
    .quad 0x00af9b000000ffff            /* 08 code, 64 bit, ring 0 */
    .quad 0x00cf93000000ffff            /* 10 data, ring 0 */
    .quad 0x00cff3000000ffff            /* 18 data, ring 3 */
    .quad 0x00affb000000ffff            /* 20 code, 64 bit, ring 3 */
    .quad 0x0000891080002068            /* 28 TSS at 0x108000, with its I/O bitmap */
    .quad 0
guest_gdt_pointer:
    .word 0x37
    .long 0x103000
    .long 0
guest_idt_pointer:
    .word 0xfff
    .quad 0x102000
    /* Identity map of the first and the fourth GiB in 2 MiB pages; the rest follows when it is needed (paging.rs). */
    .balign 4096
    .globl guest_pml4
guest_pml4:
    .quad guest_pdpt + 7
    .fill 511, 8, 0
guest_pdpt:
    .quad guest_pd0 + 7
    .quad 0, 0
    .quad guest_pd3 + 7
    .fill 508, 8, 0
guest_pd0:
    .set n, 0
    .rept 512
    .quad (n << 21) + 0x87
    .set n, n + 1
    .endr
guest_pd3:
    .rept 512
    .quad (n << 21) + 0x87 + 0x80000000
    .set n, n + 1
    .endr
    /* At 0x108000. The I/O bitmap permits all ports: KVM without hardware help does not keep IOPL in ring 3. */
guest_tss:
    .long 0
    .quad guest_stack0_end              /* RSP0 */
    .fill 22, 4, 0
    .word 0
    .word 0x68                          /* the bitmap's place */
    .fill 8192, 1, 0
    .byte 0xff

    .section .bss
    .balign 4096
    .skip 4096
guest_stack0_end:
    .skip 131072
guest_stack3_end:
    .set guest_stack3_top, guest_stack3_end - 8
    .globl guest_trap
guest_trap:
    .skip 64
"#
);
